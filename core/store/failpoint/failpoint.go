// Package failpoint marks the steps of a program between which it may die. A test arms one and learns, when the program
// comes there, what a crash would leave behind. A point that nobody has armed costs one load.
package failpoint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// Point is one step.
type Point struct {
	name string
	do   atomic.Pointer[func() error]
}

var registry struct {
	sync.Mutex
	points []*Point
}

// New makes a point, at the start of the program.
func New(name string) *Point {
	registry.Lock()
	defer registry.Unlock()
	p := &Point{name: name}
	registry.points = append(registry.points, p)
	return p
}

// Hit is where a step ends after which there is no way back: the program dies here or goes on.
func (p *Point) Hit() {
	if do := p.do.Load(); do != nil {
		_ = (*do)() // which has nobody to fail to
	}
}

// Fail is where a step ends that can still fail.
func (p *Point) Fail() error {
	if do := p.do.Load(); do != nil {
		return (*do)()
	}
	return nil
}

// Names are those of all points.
func Names() []string {
	registry.Lock()
	defer registry.Unlock()
	var out []string
	for _, p := range registry.points {
		out = append(out, p.name)
	}
	slices.Sort(out)
	return out
}

// Arm has do be called whenever the program comes to the point. It may end the goroutine or the process; an error fails
// the step, where it can fail. nil disarms the point.
func Arm(name string, do func() error) error {
	registry.Lock()
	defer registry.Unlock()
	for _, p := range registry.points {
		if p.name == name {
			if do == nil {
				p.do.Store(nil)
			} else {
				p.do.Store(&do)
			}
			return nil
		}
	}
	return fmt.Errorf("there is no failpoint %q", name)
}

// Kill arms a point by its name, such as "store/install/recorded", or "store/install/recorded:3": the process is killed
// when it comes there for the third time.
func Kill(spec string) error {
	name, count, counted := strings.Cut(spec, ":")
	left := int64(1)
	if counted {
		var err error
		if left, err = strconv.ParseInt(count, 10, 64); err != nil || left < 1 {
			return fmt.Errorf("failpoint %q: after the colon stands at which time the process is to die", spec)
		}
	}
	var seen atomic.Int64
	return Arm(name, func() error {
		if seen.Add(1) == left {
			_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL) // can't fail for ourselves
			select {}                                           // nothing more is done until it arrives
		}
		return nil
	})
}
