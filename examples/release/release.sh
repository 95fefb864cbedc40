#!/bin/sh
# Usage: release.sh VERSION. Optional: TARGETS, SIGNING_KEY (a file), PREVIOUS (a bundle).
set -eu
inv release --version "$1" --out "dist/$1" --archive "dist/$1.tar.gz" --target "${TARGETS:-*/cpu*}" ${SIGNING_KEY+--sign "$SIGNING_KEY"} ${PREVIOUS+--previous "$PREVIOUS"}
(cd "dist/$1" && sha256sum -c --strict --quiet SHA256SUMS)
