#!/usr/bin/env bash
# The benchmark, from the root of the repository or anywhere. VENV names a virtual environment with
# the shardstream wheel, numpy and webdataset in it, as "make install" makes it. The peers go into an
# environment upon it, build/bench/venv, so that nothing else ever sees them; where they can't be
# installed, the run leaves them out and says so. Arguments go to bench.py (--quick, --rounds N,
# --help, ...); so does the environment: BENCH_ROUNDS, BENCH_CASES, BENCH_DATA, BENCH_CLIENTS.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
base=${VENV:-$root/.venv}
work=$root/build/bench
python=$work/venv/bin/python

if [[ ! -x $base/bin/python ]]; then
	echo "bench: no Python at $base/bin/python: run \"make install\" first, or set VENV" >&2
	exit 2
fi

# site NAME: the folder of the packages of an environment's Python.
site() {
	"$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
}

peers() {
	"$base/bin/python" -m venv --clear "$work/venv"
	# Whatever is not installed here is looked up there, with the .pth files of there too.
	echo "import site; site.addsitedir('$(site "$base/bin/python")')" >"$(site "$python")/base.pth"
	"$python" -m pip install --disable-pip-version-check --quiet --progress-bar off \
		--no-deps -r "$here/requirements.txt" && cp "$here/requirements.txt" "$work/venv/installed.txt"
}

mkdir -p "$work/bin"
if ! cmp -s "$here/requirements.txt" "$work/venv/installed.txt"; then
	echo "bench: installing the peers into $work/venv"
	peers || echo "bench: some peers could not be installed, the run goes without them" >&2
fi
(cd "$root" && CGO_ENABLED=0 go build -o "$work/bin/" ./tests/bench/loopback ./tests/bench/members)
# A first argument that names a benchmark chooses it.
bench=bench.py
if [[ ${1:-} == *.py ]]; then
	bench=$1
	shift
fi
PATH="$base/bin:$PATH" exec "$python" "$here/$bench" --helpers "$work/bin" "$@"
