package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// bare is runc on bundles: directories with a config.json and a root file system, as `umoci unpack` makes them. Its
// containers are known only to the node's own state directory.
type bare struct {
	name    string
	state   string // of runc
	bundles string // where our own config.json of each container lies
}

func openRunc(ctx context.Context, dir string) (*bare, error) {
	if _, err := exec.LookPath(Runc); err != nil {
		return nil, errors.New("runc is not installed")
	}
	version, err := output(ctx, probeTimeout, Runc, "--version")
	if err != nil {
		return nil, err
	}
	version, _, _ = strings.Cut(version, "\n")
	r := &bare{
		name:  strings.Replace(version, " version ", " ", 1),
		state: filepath.Join(dir, "runc"), bundles: filepath.Join(dir, "bundles"),
	}
	for _, d := range []string{r.state, r.bundles} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *bare) Name() string { return r.name }

// bundleConfig is an OCI runtime configuration. Whoever deploys a transformation may name any directory of the node,
// also one whose files are somebody's code: of what stands there only that is kept which can't touch the node, so no
// hooks, which would run as root, and nothing of the machine mounted.
type bundleConfig struct {
	document map[string]json.RawMessage
	process  map[string]any
	linux    map[string]any
	root     map[string]any
	mounts   []any
}

func readBundle(dir string) (*bundleConfig, error) {
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("%s is not an unpacked image: %w", dir, err)
	}
	b := &bundleConfig{process: map[string]any{}, linux: map[string]any{}, root: map[string]any{}}
	var written map[string]json.RawMessage
	if err := json.Unmarshal(data, &written); err != nil {
		return nil, fmt.Errorf("%s/config.json: %w", dir, err)
	}
	for name, into := range map[string]any{"process": &b.process, "linux": &b.linux, "root": &b.root, "mounts": &b.mounts} {
		if part := written[name]; part != nil {
			if err := json.Unmarshal(part, into); err != nil {
				return nil, fmt.Errorf("%s/config.json: %s: %w", dir, name, err)
			}
		}
	}
	b.document = map[string]json.RawMessage{"ociVersion": written["ociVersion"]}
	keep(b.process, "args", "env", "cwd", "user")
	keep(b.linux, "maskedPaths", "readonlyPaths", "seccomp")
	keep(b.root, "path")
	b.mounts = slices.DeleteFunc(b.mounts, func(m any) bool { return !isOwn(m) })
	rootfs, _ := b.root["path"].(string)
	if rootfs == "" {
		rootfs = "rootfs"
	}
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(dir, rootfs)
	}
	if info, err := os.Stat(rootfs); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s is not an unpacked image: it has no directory %s", dir, rootfs)
	}
	if !within(dir, rootfs) {
		return nil, fmt.Errorf("%s is not an unpacked image: its root file system %s lies outside", dir, rootfs)
	}
	b.root["path"] = rootfs
	return b, nil
}

// keep drops all but some members of a part of a configuration.
func keep(part map[string]any, names ...string) {
	maps.DeleteFunc(part, func(name string, _ any) bool { return !slices.Contains(names, name) })
}

// isOwn says whether a mount is of a file system that the container has for itself, and shows nothing of the machine.
func isOwn(m any) bool {
	mount, _ := m.(map[string]any)
	kind, _ := mount["type"].(string)
	options, _ := mount["options"].([]any)
	return slices.Contains([]string{"proc", "tmpfs", "devpts", "mqueue", "sysfs", "cgroup", "cgroup2"}, kind) &&
		!slices.ContainsFunc(options, func(o any) bool { return o == "bind" || o == "rbind" })
}

// within says whether a path is below a directory when all links are followed.
func within(dir, path string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return false
	}
	relative, err := filepath.Rel(dir, path)
	return err == nil && relative != "." && filepath.IsLocal(relative)
}

func (r *bare) Image(_ context.Context, name string, _ func(string)) (Image, error) {
	dir := strings.TrimPrefix(name, Bundle)
	if !filepath.IsAbs(dir) {
		return Image{}, fmt.Errorf("bundle %q: give an absolute path", dir)
	}
	b, err := readBundle(dir)
	if err != nil {
		return Image{}, err
	}
	image := Image{ID: dir}
	if user, ok := b.process["user"].(map[string]any); ok {
		if uid, ok := user["uid"].(float64); ok && uid > 0 { // 0 is what tools write where an image does not say
			image.User = fmt.Sprint(int64(uid))
		}
	}
	return image, nil
}

func (r *bare) Start(ctx context.Context, spec Spec, stdio Stdio) (*Container, error) {
	if spec.Network == NetworkBridge {
		return nil, fmt.Errorf("runc has no network %s: use %s or %s, or an image with podman or docker", NetworkBridge, NetworkNone, NetworkHost)
	}
	b, err := readBundle(spec.Image.ID)
	if err != nil {
		return nil, err
	}
	document, err := b.confine(spec)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(r.bundles, spec.Name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), document, 0o600); err != nil { // environment and all
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c := &Container{
		Name: spec.Name, engine: r, selfRemoving: true, tidy: func() { _ = os.RemoveAll(dir) },
		cmd: exec.Command(Runc, "--root", r.state, "run", "--bundle", dir, spec.Name),
	}
	if err := c.start(ctx, stdio); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return c, nil
}

// confine makes the configuration of one container.
func (b *bundleConfig) confine(spec Spec) ([]byte, error) {
	b.process["terminal"] = false
	b.process["noNewPrivileges"] = true
	b.process["capabilities"] = map[string]any{}
	limits := []any{}
	for _, r := range rlimits() {
		limits = append(limits, map[string]any{"type": "RLIMIT_" + strings.ToUpper(r.name), "soft": r.value, "hard": r.value})
	}
	b.process["rlimits"] = limits
	if spec.Image.User == "" {
		b.process["user"] = map[string]any{"uid": nobody, "gid": nobody}
	}
	if len(spec.Command) > 0 {
		b.process["args"] = spec.Command
	}
	env, _ := b.process["env"].([]any)
	for _, name := range slices.Sorted(maps.Keys(spec.Env)) {
		env = append(env, name+"="+spec.Env[name]) // the last one of a name holds
	}
	b.process["env"] = env

	b.root["readonly"] = true
	b.mounts = slices.DeleteFunc(b.mounts, func(m any) bool {
		mount, _ := m.(map[string]any)
		return mount["destination"] == "/tmp"
	})
	b.mounts = append(b.mounts, map[string]any{
		"destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
		"options": []string{"nosuid", "nodev", "mode=1777", fmt.Sprintf("size=%d", spec.Tmp)},
	})
	for _, m := range spec.Mounts {
		b.mounts = append(b.mounts, map[string]any{
			"destination": m.Target, "type": "bind", "source": m.Source, "options": []string{"bind", "rw"},
		})
	}
	b.namespaces(spec.Network)
	b.resources(spec)
	for name, part := range map[string]any{
		"process": b.process, "root": b.root, "mounts": b.mounts, "linux": b.linux, "annotations": spec.Labels,
	} {
		data, err := json.Marshal(part)
		if err != nil {
			return nil, err
		}
		b.document[name] = data
	}
	return json.Marshal(b.document)
}

// namespaces gives the container its own of each kind but, where it shall have the host's network, that one. There is
// no user namespace: the files of the bundle belong to whom they belong.
func (b *bundleConfig) namespaces(network string) {
	list := []any{}
	for _, kind := range []string{"pid", "ipc", "uts", "mount", "network"} {
		if kind != "network" || network == NetworkNone {
			list = append(list, map[string]any{"type": kind})
		}
	}
	b.linux["namespaces"] = list
}

func (b *bundleConfig) resources(spec Spec) {
	resources := map[string]any{
		"devices": []any{map[string]any{"allow": false, "access": "rwm"}},
		"pids":    map[string]any{"limit": spec.PIDs},
	}
	if spec.Memory > 0 {
		resources["memory"] = map[string]any{"limit": spec.Memory, "swap": spec.Memory}
	}
	if spec.CPUs > 0 {
		const period = 100_000
		resources["cpu"] = map[string]any{"period": period, "quota": int64(spec.CPUs * period)}
	}
	b.linux["resources"] = resources
	b.linux["cgroupsPath"] = "/shardstream/" + spec.Name
}

func (r *bare) Port(context.Context, string, int) (string, error) {
	return "", errors.New("runc publishes no ports")
}

func (r *bare) Remove(ctx context.Context, name string) error {
	_, err := output(ctx, callTimeout, Runc, "--root", r.state, "delete", "--force", name)
	if isMissing(err) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(filepath.Join(r.bundles, name)))
}

func (r *bare) List(ctx context.Context, label, value string) ([]string, error) {
	text, err := output(ctx, callTimeout, Runc, "--root", r.state, "list", "--format", "json")
	if err != nil {
		return nil, err
	}
	var list []struct {
		ID          string            `json:"id"`
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("runc list: %w", err)
	}
	var names []string
	for _, c := range list {
		if c.Annotations[label] == value {
			names = append(names, c.ID)
		}
	}
	return names, nil
}
