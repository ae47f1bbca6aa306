// Package sandbox starts programs that run users' code, so confined that they reach nothing of the node: its files,
// processes, sockets and environment, nor more memory, processors, processes and disk than they were given.
//
// Probe finds out what the machine can do, by trying it. Start runs a program at one of three levels:
//
//   - strict: namespaces of its own with a minimal root, made by bubblewrap;
//   - landlock: files, TCP, signals and abstract sockets fenced off by the kernel's landlock, in a network namespace of
//     its own where the node may make one;
//   - none: resource limits only.
//
// At each level the last steps are taken in the new process, by the node's own binary: an init function of this package
// recognises that it was started for that, sets the limits, gives up all privileges and becomes the program. Limits of
// memory, processors and processes are those of a control group where the node may make one, resource limits elsewhere.
//
// The package knows nothing of what it runs, and imports nothing of the rest of the product.
package sandbox

import "os"

// Levels, from the most to the least. Auto stands for the most that the machine has.
const (
	Strict   = "strict"
	Landlock = "landlock"
	None     = "none"
	Auto     = "auto"
)

// Defaults of limits.
const (
	DefaultProcesses = 512
	DefaultScratch   = 1 << 30
	defaultFiles     = 1024 // descriptors
)

// Limits bound what one program, with all that it starts, may take. Zero values mean the defaults.
type Limits struct {
	Memory    int64   // bytes; 0: no limit
	CPUs      float64 // processors' worth of time; 0: no limit
	Processes int     // processes and threads; DefaultProcesses
	Scratch   int64   // bytes in its scratch directory, and of its largest file; DefaultScratch, or Memory if that is less
}

func (l Limits) withDefaults() Limits {
	if l.Processes <= 0 {
		l.Processes = DefaultProcesses
	}
	if l.Scratch <= 0 {
		l.Scratch = DefaultScratch
		if l.Memory > 0 {
			l.Scratch = min(l.Scratch, l.Memory)
		}
	}
	return l
}

// Spec is a program and what it is given. It inherits nothing else.
type Spec struct {
	Path string   // of the program
	Args []string // that follow its name
	Env  []string
	// Dir is its scratch directory, where it starts: it exists, is empty and is the program's alone. What the program
	// writes there may not be seen from outside.
	Dir string

	// Read and Write are files and directories that it may use beside the system's own (/usr, /lib, /bin); those that
	// don't exist are passed over. Hide are directories of the node, which stay out of sight where they lie below one of
	// these, unless a path of Read, Write or Dir lies below them in turn.
	Read, Write, Hide []string

	Network bool // the node's network; else none at all
	Limits  Limits

	Stdin, Stdout, Stderr *os.File   // nil: /dev/null
	ExtraFiles            []*os.File // descriptors 3 and on
}
