#!/bin/sh
# The benchmark, from the root of the repository or anywhere. VENV names a virtual environment with
# the shardstream wheel, numpy and webdataset in it, as "make install" makes it. Arguments go to
# bench.py (--quick, --rounds N, --help, ...).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${VENV:-$root/.venv}/bin/python

if [ ! -x "$python" ]; then
	echo "bench: no Python at $python: run \"make install\" first, or set VENV" >&2
	exit 2
fi
helper=$root/build/bench/loopback
(cd "$root" && go build -o "$helper" ./tests/bench/loopback)
exec "$python" "$here/bench.py" --loopback "$helper" "$@"
