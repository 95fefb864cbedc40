"""Releases in OCI registries, by the OCI distribution API 1.1.

`reference` reads addresses, and `client` has the operations: is a blob there, upload, download.
`oci_manifest` describes a release as an OCI artifact. `credentials` finds who the user is,
`authentication` answers the challenges of a registry, and `transport` sends single requests.

All of it uses the standard library alone. See docs/dependencies.md.
"""
