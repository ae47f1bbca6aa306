package environment

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// BuildError says why an environment can't be built.
type BuildError struct {
	Summary string // one line
	Log     string // the end of what the build printed
	Node    bool   // the node is to blame (no space, no index), not who wrote the requirements
}

func (e *BuildError) Error() string {
	if e.Log == "" {
		return e.Summary
	}
	return e.Summary + "\n" + e.Log
}

const (
	maxTranscript = 256 << 10 // bytes of a build's output that are kept
	maxTail       = 8 << 10   // bytes of it that an error carries
	maxLine       = 200       // of a progress line
)

// transcript keeps what a build prints and tells what it is at, line by line.
type transcript struct {
	tell func(string)

	mu   sync.Mutex
	text []byte
	line []byte // not yet ended
	at   string // the last line told
}

func newTranscript(tell func(string)) *transcript { return &transcript{tell: tell} }

// say adds a line of our own.
func (t *transcript) say(line string) { _, _ = t.Write([]byte(line + "\n")) }

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > 2*maxTranscript {
		t.text = append(t.text[:0:0], t.text[len(t.text)-maxTranscript:]...)
	}
	for _, c := range p {
		if c != '\n' && c != '\r' {
			if len(t.line) < maxLine {
				t.line = append(t.line, c)
			}
			continue
		}
		if line := strings.TrimSpace(strings.ToValidUTF8(string(t.line), "")); tellable(line) {
			t.at = line
			t.tell(line)
		}
		t.line = t.line[:0]
	}
	return len(p), nil
}

// tellable chooses the lines that say what pip is at.
func tellable(line string) bool {
	for _, begin := range []string{"Making", "Collecting", "Downloading", "Processing", "Building", "Preparing", "Installing", "Getting", "Using", "Running", "INFO: pip is looking"} {
		if strings.HasPrefix(line, begin) {
			return true
		}
	}
	return false
}

// last is what the build was last at.
func (t *transcript) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.at
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.text[max(0, len(t.text)-maxTranscript):]), "\uFFFD")
}

// tail is the end of the output, by whole lines.
func (t *transcript) tail() string {
	text := strings.TrimSpace(t.String())
	if len(text) > maxTail {
		text = text[len(text)-maxTail:]
		if _, rest, ok := strings.Cut(text, "\n"); ok {
			text = rest
		}
	}
	return text
}

var (
	noVersionRE  = regexp.MustCompile(`Could not find a version that satisfies the requirement (.+?) \(from versions: (.*)\)`)
	noMatchRE    = regexp.MustCompile(`No matching distribution found for (.+)`)
	invalidRE    = regexp.MustCompile(`(?:Invalid requirement: |Invalid requirement )(.+)`)
	failedRE     = regexp.MustCompile(`(?:Failed to build installable wheels for some pyproject\.toml based projects|Failed building wheel for|Failed to build|Could not build wheels for) \(?([^,\s)]+)`)
	pythonRE     = regexp.MustCompile(`Package '([^']+)' requires a different Python: (.+)`)
	errorRE      = regexp.MustCompile(`(?m)^ *(?:ERROR|error): (.+)$`)
	collectingRE = regexp.MustCompile(`(?m)^(?:Collecting|Processing) (\S+)`)
)

// reason finds in pip's output why it failed, in one line, and whether the node is to blame.
func reason(output string) (node bool, summary string) {
	unreachable := strings.Contains(output, "Retrying (Retry(") || strings.Contains(output, "Could not fetch URL")
	if strings.Contains(output, "No space left on device") || strings.Contains(output, "[Errno 28]") {
		return true, "there is no space left on this node for the environment"
	}
	if m := invalidRE.FindStringSubmatch(output); m != nil {
		return false, "pip does not understand the requirement " + clipLine(m[1])
	}
	if m := noVersionRE.FindStringSubmatch(output); m != nil {
		return missing(m[1], m[2], unreachable, output)
	}
	if m := noMatchRE.FindStringSubmatch(output); m != nil {
		return missing(m[1], "none", unreachable, output)
	}
	if strings.Contains(output, "ResolutionImpossible") || strings.Contains(output, "conflicting dependencies") {
		return false, conflict(output)
	}
	if m := pythonRE.FindStringSubmatch(output); m != nil {
		return false, fmt.Sprintf("%s does not run under this Python: %s", m[1], clipLine(m[2]))
	}
	if m := failedRE.FindStringSubmatch(output); m != nil {
		return false, m[1] + " failed to build" + detail(output)
	}
	if strings.Contains(output, "subprocess-exited-with-error") || strings.Contains(output, "metadata-generation-failed") {
		what := "a package"
		if m := collectingRE.FindAllStringSubmatch(output, -1); m != nil {
			what = clipLine(m[len(m)-1][1])
		}
		return false, what + " failed to build" + detail(output)
	}
	if unreachable {
		return true, "no package index could be reached from this node; its pip is configured by pip.conf and PIP_INDEX_URL"
	}
	if m := errorRE.FindAllStringSubmatch(output, -1); m != nil {
		return false, clipLine(m[len(m)-1][1])
	}
	return false, "pip failed; its output says why"
}

// missing is the reason where no distribution satisfies a requirement.
func missing(requirement, versions string, unreachable bool, output string) (bool, string) {
	name, _, _ := strings.Cut(requirement, " (from ") // "six==99 (from other)": who wants it follows
	if versions != "none" && versions != "" {
		list := strings.Split(versions, ", ")
		if len(list) > 8 {
			list = append([]string{"..."}, list[len(list)-8:]...)
		}
		return false, fmt.Sprintf("no version satisfies %s; there are %s", clipLine(requirement), strings.Join(list, ", "))
	}
	if unreachable {
		return true, fmt.Sprintf("%s can't be had: no package index could be reached from this node; its pip is configured by pip.conf and PIP_INDEX_URL", clipLine(name))
	}
	if strings.Contains(output, "Ignored the following versions that require a different python version") {
		return false, fmt.Sprintf("no version of %s runs under this Python", clipLine(name))
	}
	return false, fmt.Sprintf("there is no package that satisfies %s", clipLine(requirement))
}

// conflict says which requirements exclude each other.
func conflict(output string) string {
	_, after, ok := strings.Cut(output, "The conflict is caused by:")
	if !ok {
		return "the requirements conflict with each other"
	}
	var causes []string
	for _, line := range strings.Split(after, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			if len(causes) > 0 {
				break
			}
			continue
		}
		causes = append(causes, line)
	}
	return "the requirements conflict: " + clipLine(strings.Join(causes, "; "))
}

// detail is the last error that a package's own build printed.
func detail(output string) string {
	lines := strings.Split(output, "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		if buildErrorRE.MatchString(line) && !strings.HasPrefix(line, "ERROR: Failed") && !strings.HasPrefix(line, "error: subprocess-exited") && !strings.HasPrefix(line, "error: metadata-generation-failed") {
			return ": " + clipLine(line)
		}
	}
	return ""
}

// buildErrorRE knows an exception's last line and a compiler's error.
var buildErrorRE = regexp.MustCompile(`^(?:[A-Za-z_.]*(?:Error|Exception|Exit)\b.*:|error: |.*: (?:fatal )?error: )`)

func clipLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	if len(s) <= 500 {
		return s
	}
	return strings.ToValidUTF8(s[:500], "") + "..."
}
