#!/bin/sh
# Usage: release.sh VERSION. Optional: TARGETS, SIGNING_KEY (a file), PREVIOUS (a bundle), REGISTRY (such as
# oci://registry.example.org/team/models, to which the release is pushed with the version as its tag).
set -eu
inv release --version "$1" --out "dist/$1" --archive "dist/$1.tar.gz" --target "${TARGETS:-*/cpu*}" ${SIGNING_KEY+--sign "$SIGNING_KEY"} ${PREVIOUS+--previous "$PREVIOUS"} ${REGISTRY:+--push "$REGISTRY:$1"}
(cd "dist/$1" && sha256sum -c --strict --quiet SHA256SUMS)
