#!/usr/bin/env bash
# Installs torch into a virtual environment: install-torch.sh VENV [light|full|none]
#
#   light  the wheel alone (540 MB) with stand-ins for CUDA, see mkstubs.py. Linux, CPU only.
#          Falls back to full, and says so, if that does not end in a torch that computes.
#   full   plain `pip install torch`: on Linux with CUDA libraries, about 5.5 GB.
#   none   no torch: tests that need it are skipped with a reason.
set -euo pipefail

venv=$1 mode=${2:-light}
here=$(cd "$(dirname "$0")" && pwd)
pip=("$venv/bin/python" -m pip install --disable-pip-version-check --quiet --progress-bar off)

works() {
	"$venv/bin/python" -W ignore - <<'PY'
import torch
from torch.utils.data import DataLoader

assert sum(int(b.sum()) for b in DataLoader(range(100), batch_size=10, num_workers=1)) == 4950
print(f"torch {torch.__version__}: CUDA {'yes' if torch.cuda.is_available() else 'no'}")
PY
}

light() {
	[[ $(uname -s) == Linux ]] || { echo "the light install of torch is for Linux"; return 1; }
	command -v readelf >/dev/null || { echo "the light install of torch needs readelf (binutils)"; return 1; }
	# pip lists the CUDA packages that we leave out as conflicts: expected, and no news to the reader.
	"${pip[@]}" --no-deps -r "$here/requirements-torch.txt" &&
		"${pip[@]}" -r "$here/requirements-torch-light.txt" 2> >(grep -v -e '^torch .* requires' -e "pip's dependency resolver" >&2) &&
		"$venv/bin/python" "$here/mkstubs.py" \
			"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/torch/lib" &&
		works
}

full() {
	# Removes the stand-ins too, if there are any: they lie in torch's own folder.
	"$venv/bin/python" -m pip uninstall --yes --quiet torch 2>/dev/null || true
	rm -rf "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/torch"
	"${pip[@]}" -r "$here/requirements-torch.txt"
	works
}

case $mode in
light) light || {
	echo "install-torch: the light install did not work here; installing torch in full (several GB)" >&2
	full
} ;;
full) full ;;
none) echo "torch is left out (TORCH=none)" ;;
*)
	echo "usage: install-torch.sh VENV [light|full|none]" >&2
	exit 2
	;;
esac
