#!/usr/bin/env bash
# Installs libraries of models into a folder of their own, beside the environment that runs this.
#   ci/zoo_packages.sh FOLDER          timm, PaddleClas and deepmd-kit
#   ci/zoo_packages.sh FOLDER suites   PaddleDetection, PaddleSeg and PaddleOCR, too
# Without what they need: PyTorch, PaddlePaddle and the like are here, the rest is named or never called.
set -euo pipefail
folder=$1

# install PLACE PACKAGE…: a second call with the same packages has nothing to do.
install() {
  local place=$1; shift
  if [ "$(cat "$place/.installed" 2>/dev/null)" != "$*" ]; then
    python -m pip install --quiet --no-deps --upgrade --target "$place" "$@"
    echo "$*" > "$place/.installed"
  fi
}

install "$folder" timm==1.0.31 paddleclas==2.6.0
install "$folder/deepmd" deepmd-kit==3.2.0 array-api-compat==1.16.0 dargs==0.5.1 ml_dtypes==0.6.0
if [ "${2:-}" = suites ]; then
  # These releases are of 2023: numpy 2.4 refuses what they, and paddle.flops, do with arrays of one
  # number, and setuptools 81 has no pkg_resources.
  install "$folder/suites" paddledet==2.6.0 paddleseg==2.8.0 paddleocr==2.10.0 \
    numpy==2.3.5 'setuptools<81' opencv-python-headless==5.0.0.93 pycocotools==2.0.11 \
    shapely==2.2.0 pyclipper==1.4.0 lmdb==3.0.0 typeguard==4.6.1 terminaltables==3.1.10 \
    scikit-image==0.25.2 lazy_loader==0.6 rapidfuzz==3.14.6 albumentations==1.4.10 albucore==0.0.13
fi
