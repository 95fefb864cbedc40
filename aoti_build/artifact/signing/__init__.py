"""Signatures of releases, in the format OpenSSF Model Signing (OMS) v1.0.

`sign` signs a directory. `verify` reads a signature and says what was signed and by whom. `compare`
holds a directory against that. `private_keys` and `trust` read the keys. `refusals` has the errors.

Only functions that compute a signature import cryptography, which the extra ``sign`` installs.
`keyless` and `keyless_signing` import the library of the extra ``sigstore`` in the same way.
"""
