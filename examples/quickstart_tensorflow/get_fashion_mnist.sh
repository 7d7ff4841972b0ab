#!/bin/sh
# Fetch real images where CIFAR-10 may be out of reach: Debian's copy of Fashion-MNIST, if this is Debian and we may.
# Without it, the example takes scikit-learn's digits.
[ -e /usr/share/datasets/fashion-mnist ] && exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
echo 'installing the Debian package dataset-fashion-mnist'
{ apt-get update -q && apt-get install -q -y --no-install-recommends dataset-fashion-mnist; } >/dev/null 2>&1 ||
    echo 'it could not be installed; going on without'
