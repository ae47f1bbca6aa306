package etl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Kinds of definition.
const (
	KindFunction  = "function"  // Python, in worker processes of this node
	KindContainer = "container" // an OCI image, run beside the node by a container engine
	KindServer    = "server"    // an HTTP server that somebody else runs
	KindCommand   = "command"   // a program of the node that filters stdin to stdout
)

// Levels of a definition: what it is given and what it returns.
const (
	LevelSample = "sample" // def transform(sample: dict) -> dict
	LevelBatch  = "batch"  // def transform(samples: list[dict]) -> dict of columns, one row for each sample
	LevelObject = "object" // def transform(data: bytes) -> bytes
)

// Transports between a node and what transforms.
const (
	TransportPush     = "push"     // the node sends the bytes and relays the answer
	TransportRedirect = "redirect" // the client is sent on to the server, which reads from the node
	TransportProxy    = "proxy"    // the node forwards the request to the server, which reads from the node
	TransportStdio    = "stdio"    // a program reads stdin and writes stdout, once for each object
)

// Isolation levels of what runs on the node, from the most to the least.
const (
	IsolationStrict   = "strict"   // namespaces of its own, by bubblewrap
	IsolationLandlock = "landlock" // files and network by landlock, in the node's namespaces
	IsolationNone     = "none"     // an ordinary process
)

// Networks that a definition can be granted.
const (
	NetworkNone   = "none"
	NetworkHost   = "host"
	NetworkBridge = "bridge" // containers only: the engine's own network
)

// Defaults and bounds of a definition.
const (
	DefaultEntry   = "transform"
	DefaultTimeout = 30 * time.Second
	DefaultMemory  = 2 << 30   // bytes of one worker process, or of a container
	DefaultOutput  = 256 << 20 // bytes of one answer
	MaxSource      = 1 << 20
	MaxTimeout     = time.Hour
	MaxWorkers     = 256
	MaxOutput      = 1 << 40 // of an answer that streams
	MaxHeld        = 1 << 30 // of one that is held in memory, whatever the definition allows
	MaxArgs        = 64 << 10
)

// Limits bound what one call may take. Zero values mean the defaults.
type Limits struct {
	Memory int64   // bytes of one worker process, or of a container
	CPUs   float64 // of one worker process, or of a container; 0: no limit
	Output int64   // bytes of one answer
}

// Args are the arguments of a call: a JSON object, nil for none.
type Args = json.RawMessage

// Definition is a deployed transformation. Zero values of Kind, Entry, Level, Transport, Network, Workers, Timeout and
// Limits mean the defaults.
type Definition struct {
	Name    string
	Kind    string
	Level   string
	Version int64

	// Of a function.
	Source       string   // Python
	Entry        string   // function in Source
	Pickle       []byte   // by cloudpickle, in place of Source
	Requirements []string // "pillow", "numpy>=1.26": installed in a virtual environment of its own
	Python       string   // version, as in "3.11"; empty: the node's

	// Of a container, a server or a command.
	Image     string            // OCI image, or bundle:/path of an unpacked one
	Command   []string          // of the container instead of the image's own; the program of a command
	Env       map[string]string // added to the environment
	Port      int               // that a container's server listens on, where it is not given one; 0: it is given one
	URL       string            // of a server; {host} and {target} stand for the node's address and id
	Transport string
	Fields    []string // of a sample, that an object-level transformation is applied to in streams

	Args      Args          // defaults of the arguments that requests may give
	Workers   int           // processes, or requests that a server takes at once; 0 is one per CPU
	Timeout   time.Duration // for one sample or object
	Limits    Limits
	Isolation string // the least that will do; empty: the most that the node has
	Network   string
}

var (
	nameRE    = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	entryRE   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	pythonRE  = regexp.MustCompile(`^3\.[0-9]{1,2}$`)
	envNameRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
)

// ValidName says whether name can be an ETL's name.
func ValidName(name string) bool { return nameRE.MatchString(name) }

// aliases are the names that AIStore's specifications have for transports.
var aliases = map[string]string{"hpush": TransportPush, "hpull": TransportRedirect, "hrev": TransportProxy}

// WithDefaults fills what was left at zero, and calls a transport by our name for it.
func (d Definition) WithDefaults() Definition {
	if d.Kind == "" {
		d.Kind = KindFunction
	}
	d.Transport = strings.TrimSuffix(d.Transport, "://")
	d.Transport = or(aliases[d.Transport], d.Transport)
	switch d.Kind {
	case KindFunction:
		d.Entry = or(d.Entry, DefaultEntry)
		d.Level = or(d.Level, LevelSample)
		d.Transport = or(d.Transport, TransportPush)
	case KindCommand:
		d.Level = or(d.Level, LevelObject)
		d.Transport = or(d.Transport, TransportStdio)
	default:
		d.Level = or(d.Level, LevelObject)
		d.Transport = or(d.Transport, TransportPush)
	}
	d.Network = or(d.Network, NetworkNone)
	d.Timeout = or(d.Timeout, DefaultTimeout)
	d.Limits.Memory = or(d.Limits.Memory, DefaultMemory)
	d.Limits.Output = or(d.Limits.Output, DefaultOutput)
	d.Args = canonical(d.Args)
	return d
}

// canonical writes arguments as MergeArgs does, so that a request without any has the same bytes wherever these are
// compared or written down. Those that are no arguments stay as they are, for Validate to refuse.
func canonical(args Args) Args {
	if ValidateArgs(args) != nil {
		return args
	}
	same, err := Definition{}.MergeArgs(args)
	if err != nil {
		return args
	}
	return same
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// MergeArgs lays the arguments of a request over those of the definition, name by name.
func (d Definition) MergeArgs(request Args) (Args, error) {
	if len(request) == 0 {
		return d.Args, nil
	}
	merged := map[string]json.RawMessage{}
	for _, args := range []Args{d.Args, request} {
		if len(args) == 0 {
			continue
		}
		var these map[string]json.RawMessage
		if err := json.Unmarshal(args, &these); err != nil {
			return nil, &DefinitionError{"args", "are not a JSON object: " + err.Error()}
		}
		maps.Copy(merged, these)
	}
	if len(merged) == 0 {
		return nil, nil
	}
	return json.Marshal(merged) // names in order: the same arguments make the same bytes
}

// Validate checks everything but the source itself; the error is a *DefinitionError.
func (d Definition) Validate() error {
	d = d.WithDefaults()
	if err := d.validateCommon(); err != nil {
		return err
	}
	switch d.Kind {
	case KindFunction:
		return d.validateFunction()
	case KindContainer:
		return d.validateContainer()
	case KindServer:
		return d.validateServer()
	default:
		return d.validateCommand()
	}
}

func (d Definition) validateCommon() error {
	switch {
	case !ValidName(d.Name):
		return &DefinitionError{"name", fmt.Sprintf("%q: use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit", clip(d.Name, 80))}
	case !slices.Contains([]string{KindFunction, KindContainer, KindServer, KindCommand}, d.Kind):
		return &DefinitionError{"kind", fmt.Sprintf("%q: use %s, %s, %s or %s", clip(d.Kind, 80), KindFunction, KindContainer, KindServer, KindCommand)}
	case !slices.Contains([]string{LevelSample, LevelBatch, LevelObject}, d.Level):
		return &DefinitionError{"level", fmt.Sprintf("%q: use %q, %q or %q", clip(d.Level, 80), LevelSample, LevelBatch, LevelObject)}
	case d.Workers < 0 || d.Workers > MaxWorkers:
		return &DefinitionError{"workers", fmt.Sprintf("%d: use 0 (one per CPU) to %d", d.Workers, MaxWorkers)}
	case d.Timeout < time.Millisecond || d.Timeout > MaxTimeout:
		return &DefinitionError{"timeout_s", fmt.Sprintf("%s: use 1ms to %s", d.Timeout, MaxTimeout)}
	case d.Limits.Memory < 16<<20:
		return &DefinitionError{"memory", fmt.Sprintf("%d bytes: use at least 16 MiB", d.Limits.Memory)}
	case !(d.Limits.CPUs == 0 || d.Limits.CPUs >= 0.01 && d.Limits.CPUs <= 1024):
		return &DefinitionError{"cpus", fmt.Sprintf("%g: use 0 (no limit) or 0.01 to 1024", d.Limits.CPUs)}
	case d.Limits.Output < 1 || d.Limits.Output > MaxOutput:
		return &DefinitionError{"max_output", fmt.Sprintf("%d: use 1 to %d bytes", d.Limits.Output, int64(MaxOutput))}
	case !slices.Contains([]string{"", IsolationStrict, IsolationLandlock, IsolationNone}, d.Isolation):
		return &DefinitionError{"isolation", fmt.Sprintf("%q: use %s, %s or %s, or leave it out for the most that the node has", clip(d.Isolation, 80), IsolationStrict, IsolationLandlock, IsolationNone)}
	case len(d.Fields) > 0 && d.Level != LevelObject:
		return &DefinitionError{"fields", fmt.Sprintf("are what transformations of level %s are applied to in streams; level %s gets whole samples", LevelObject, d.Level)}
	case len(d.Env) > 1000 || len(d.Fields) > 1000 || len(d.Command) > 1000:
		return &DefinitionError{"env", "more than 1000 entries in env, fields or command"}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Env)) {
		if !envNameRE.MatchString(name) || strings.ContainsRune(d.Env[name], 0) || len(d.Env[name]) > 64<<10 {
			return &DefinitionError{"env", fmt.Sprintf("%q can't be an environment variable", clip(name, 80))}
		}
	}
	for _, arg := range d.Command {
		if strings.ContainsRune(arg, 0) || len(arg) > 64<<10 {
			return &DefinitionError{"command", fmt.Sprintf("%q can't be an argument", clip(arg, 80))}
		}
	}
	return ValidateArgs(d.Args)
}

// ValidateArgs says what is wrong with the arguments of a definition or a call; the error is a *DefinitionError.
func ValidateArgs(args Args) error {
	if len(args) == 0 {
		return nil
	}
	if len(args) > MaxArgs {
		return &DefinitionError{"args", fmt.Sprintf("have %d bytes as JSON, at most %d are allowed", len(args), MaxArgs)}
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(args, &object); err != nil || bytes.Equal(bytes.TrimSpace(args), []byte("null")) {
		return &DefinitionError{"args", fmt.Sprintf("%q is not a JSON object such as {\"size\": 224}", clip(string(args), 80))}
	}
	for name := range object {
		if !entryRE.MatchString(name) {
			return &DefinitionError{"args", fmt.Sprintf("%q is not the name of an argument", clip(name, 80))}
		}
	}
	return nil
}

func (d Definition) validateFunction() error {
	switch {
	case strings.TrimSpace(d.Source) == "" && len(d.Pickle) == 0:
		return &DefinitionError{"source", "is empty: give the Python source that defines the function"}
	case d.Source != "" && len(d.Pickle) > 0:
		return &DefinitionError{"pickle", "takes the place of source: give one of them"}
	case len(d.Source) > MaxSource:
		return &DefinitionError{"source", fmt.Sprintf("has %d bytes, more than %d", len(d.Source), MaxSource)}
	case len(d.Pickle) > MaxSource:
		return &DefinitionError{"pickle", fmt.Sprintf("has %d bytes, more than %d; move data out of the closure", len(d.Pickle), MaxSource)}
	case strings.ContainsRune(d.Source, 0):
		return &DefinitionError{"source", "contains a NUL byte"}
	case !entryRE.MatchString(d.Entry):
		return &DefinitionError{"entry", fmt.Sprintf("%q is not the name of a Python function", clip(d.Entry, 80))}
	case d.Python != "" && !pythonRE.MatchString(d.Python):
		return &DefinitionError{"python", fmt.Sprintf("%q is not a version such as 3.11", clip(d.Python, 80))}
	case len(d.Requirements) > 100:
		return &DefinitionError{"requirements", "more than 100"}
	case d.Transport != TransportPush:
		return &DefinitionError{"transport", fmt.Sprintf("%q: a function has no server of its own, the node gives it its data (%s)", clip(d.Transport, 80), TransportPush)}
	case d.Network != NetworkNone && d.Network != NetworkHost:
		return &DefinitionError{"network", fmt.Sprintf("%q: use %s or %s", clip(d.Network, 80), NetworkNone, NetworkHost)}
	case d.Image != "" || d.URL != "" || len(d.Command) > 0 || d.Port != 0:
		return &DefinitionError{"kind", "a function has no image, url, command or port"}
	}
	for _, r := range d.Requirements {
		if strings.TrimSpace(r) == "" || len(r) > 200 || strings.ContainsAny(r, "\x00\n\r") || strings.HasPrefix(strings.TrimSpace(r), "-") {
			return &DefinitionError{"requirements", fmt.Sprintf("%q is not a requirement such as \"pillow>=10\"", clip(r, 80))}
		}
	}
	return nil
}

func (d Definition) validateContainer() error {
	switch {
	case d.Image == "" || len(d.Image) > 1000 || strings.ContainsAny(d.Image, " \x00\n\r") || strings.HasPrefix(d.Image, "-"):
		return &DefinitionError{"image", fmt.Sprintf("%q is not the name of an OCI image", clip(d.Image, 80))}
	case d.Port < 0 || d.Port > 65535:
		return &DefinitionError{"port", fmt.Sprintf("%d: use 1 to 65535, or 0 to have one given in $PORT", d.Port)}
	case !slices.Contains([]string{TransportPush, TransportRedirect, TransportProxy, TransportStdio}, d.Transport):
		return d.noTransport()
	case !slices.Contains([]string{NetworkNone, NetworkHost, NetworkBridge}, d.Network):
		return &DefinitionError{"network", fmt.Sprintf("%q: use %s, %s or %s", clip(d.Network, 80), NetworkNone, NetworkHost, NetworkBridge)}
	case d.Network == NetworkNone && (d.Transport == TransportRedirect || d.Transport == TransportProxy):
		return &DefinitionError{"network", fmt.Sprintf("%s: by %s the container reads from the node, for which it needs the network %s or %s", d.Network, d.Transport, NetworkHost, NetworkBridge)}
	case d.Transport == TransportStdio && d.Level != LevelObject:
		return d.objectsOnly()
	case d.URL != "":
		return &DefinitionError{"url", "is that of a server of your own: leave image or url out"}
	}
	return d.noFunction()
}

func (d Definition) validateServer() error {
	host := strings.NewReplacer("{host}", "127.0.0.1", "{target}", "target-1").Replace(d.URL)
	u, err := url.Parse(host)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return &DefinitionError{"url", fmt.Sprintf("%q is not a URL such as http://127.0.0.1:8080 or http://{host}:8080", clip(d.URL, 80))}
	case !slices.Contains([]string{TransportPush, TransportRedirect, TransportProxy}, d.Transport):
		return d.noTransport()
	case d.Image != "" || len(d.Command) > 0 || len(d.Env) > 0 || d.Port != 0:
		return &DefinitionError{"kind", "a server that you run has no image, command, env or port"}
	case d.Isolation != "" || d.Limits.CPUs != 0 || d.Limits.Memory != DefaultMemory || d.Network != NetworkNone:
		return &DefinitionError{"kind", "a server that you run is not started by the node, which can't confine it by isolation, cpus, memory or network"}
	}
	return d.noFunction()
}

func (d Definition) validateCommand() error {
	switch {
	case len(d.Command) == 0 || d.Command[0] == "":
		return &DefinitionError{"command", "is empty: give the program and its arguments"}
	case d.Transport != TransportStdio:
		return &DefinitionError{"transport", fmt.Sprintf("%q: a command reads stdin and writes stdout (%s)", clip(d.Transport, 80), TransportStdio)}
	case d.Level != LevelObject:
		return d.objectsOnly()
	case d.Network != NetworkNone && d.Network != NetworkHost:
		return &DefinitionError{"network", fmt.Sprintf("%q: use %s or %s", clip(d.Network, 80), NetworkNone, NetworkHost)}
	case d.Image != "" || d.URL != "" || d.Port != 0:
		return &DefinitionError{"kind", "a command has no image, url or port"}
	}
	return d.noFunction()
}

func (d Definition) noTransport() error {
	return &DefinitionError{"transport", fmt.Sprintf("%q does not go with kind %s", clip(d.Transport, 80), d.Kind)}
}

func (d Definition) objectsOnly() error {
	return &DefinitionError{"level", fmt.Sprintf("%q: by %s only whole objects travel (%s)", d.Level, TransportStdio, LevelObject)}
}

// noFunction refuses what only functions have.
func (d Definition) noFunction() error {
	if d.Source != "" || len(d.Pickle) > 0 || d.Entry != "" || len(d.Requirements) > 0 || d.Python != "" {
		return &DefinitionError{"kind", fmt.Sprintf("a %s has no source, entry, requirements or python: these are a function's", d.Kind)}
	}
	return nil
}
