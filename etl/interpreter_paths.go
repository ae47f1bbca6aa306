package etl

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"sync"
	"time"
)

// interpreterPaths remembers what each interpreter needs, which takes a process to find out.
var interpreterPaths sync.Map

// listPaths prints where an interpreter and its packages lie. Packages may lie outside of the prefixes: on the path
// through a .pth file, or where the finder of an editable install says.
const listPaths = `
import json, os, sys, sysconfig
paths = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, sysconfig.get_config_var("LIBDIR")]
paths += sys.path
for name, module in list(sys.modules.items()):
    if name.startswith("__editable__") and isinstance(getattr(module, "MAPPING", None), dict):
        paths += module.MAPPING.values()
link = sys.executable
while os.path.islink(link):
    link = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
    paths.append(link)
paths = [p for p in paths if isinstance(p, str) and os.path.isabs(p) and os.path.exists(p)]
print(json.dumps(list(dict.fromkeys(paths))))
`

// pathsOf lists the files and directories that a worker must be able to read to run under an interpreter.
func pathsOf(ctx context.Context, python string) ([]string, error) {
	if found, ok := interpreterPaths.Load(python); ok {
		return found.([]string), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	ask := exec.CommandContext(ctx, python, "-E", "-B", "-c", listPaths)
	ask.Dir = "/"
	out, err := ask.Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s where its packages are: %w", python, err)
	}
	var paths []string
	if err := json.Unmarshal(out, &paths); err != nil {
		return nil, fmt.Errorf("ask %s where its packages are: %w", python, err)
	}
	interpreterPaths.Store(python, paths)
	return paths, nil
}
