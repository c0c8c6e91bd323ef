#!/bin/sh
# Puts the embedded base together from finished pretraining runs.
#
#   for part in clip identity identity-reward motion markings autoencoder autoencoder-smooth denoiser; do
#     cargo run --release --no-default-features -- pretrain recipes/$part.toml --out runs/$part
#   done
#   tools/assemble-nano.sh runs crates/understudy-nano/weights
#
# `--no-default-features` leaves the old embedded base out, so that this also works where there is none yet.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: $0 RUNS TARGET" >&2
    exit 2
fi
runs=$1
target=$2
partial=$target.part

rm -rf "$partial"
mkdir -p "$partial/judges"
# The denoiser's export is the whole base: it holds the autoencoder it was trained with.
cp -R "$runs/denoiser/export/." "$partial"
for judge in clip identity identity-reward motion markings; do
    cp -R "$runs/$judge/export" "$partial/judges/$judge"
done

# Only a complete folder takes the place of the old one.
rm -rf "$target"
mv "$partial" "$target"
du -sk "$target"
