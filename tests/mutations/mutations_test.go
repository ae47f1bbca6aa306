// Package mutations asks whether the tests would notice. Each mutation is a fault in the code that has lost data in some
// storage system: a file that is not synced, a range that is not verified, a copy that is removed too early. It is made by
// an overlay of the one file that it changes, and a test that is named has to fail then.
//
// That each still fits its file is tested always; `make test-mutations` makes them.
package mutations

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var full = flag.Bool("full", false, "make the mutations, and run the tests that are to notice")

const root = "../.."

// mutation is a fault, and who is to notice.
type mutation struct {
	name     string
	file     string
	from, to string
	pkg      string
	test     string
}

var mutations = []mutation{
	{
		name: "a file is not synced before it is an object",
		file: "core/store/put.go",
		from: "	if err := w.file.Sync(); err != nil {\n		return err\n	}\n	atFinished.Hit()", to: "	atFinished.Hit()",
		pkg: "core/store", test: "TestSyncOrder",
	},
	{
		name: "the directory of a new file is not synced",
		file: "core/store/commit.go",
		from: "if err := w.disk.fs.SyncDir(w.id.path()[:len(dataDir)+3]); err != nil {", to: "if err := error(nil); err != nil {",
		pkg: "core/store", test: "TestSyncOrder",
	},
	{
		name: "a sync that failed counts as done",
		file: "core/store/fs_watched.go",
		from: "	return f.k.sawSync(f.k.do(f.File.Sync))", to: "	_ = f.k.sawSync(f.k.do(f.File.Sync))\n	return nil",
		pkg: "core/store", test: "TestNaughtyDisk|TestFsyncFails",
	},
	{
		name: "ranges are read without being verified",
		file: "core/store/object.go",
		from: "	if err := checkBlocks(b, first, r.h.sums); err != nil {\n		return false, r.h.explain(err)\n	}\n	stop :=", to: "	stop :=",
		pkg: "core/store", test: "TestFlippedByte",
	},
	{
		name: "the condition of a write is not part of its commit",
		file: "core/store/commit.go",
		from: "	if err := check(c, i.Bucket, i.Name, copies); err != nil {\n		return nil, err\n	}\n	superseded", to: "	superseded",
		pkg: "core/store", test: "TestOneWinner|TestConditionAtCommit",
	},
	{
		name: "the last page of a listing is dropped",
		file: "core/store/list.go",
		from: "			more = true\n			return errStop", to: "			more = false\n			return errStop",
		pkg: "core/store", test: "TestList",
	},
	{
		name: "a listing without some of the targets is taken for whole",
		file: "cluster/gateway/listing.go",
		from: "	if l.placer.Layout().Covered(l.bucket.Copies(), l.bucket.Was, asked) {", to: "	if l.placer.Layout().Covered(l.bucket.Copies(), l.bucket.Was, asked) || true {",
		pkg: "cluster/gateway", test: "TestWithATargetDownListingsFailAndOthersServe",
	},
	{
		name: "copies that were decided on by an older map are accepted",
		file: "cluster/target/fence.go",
		from: "	if known := t.known(); version < known {", to: "	if known := t.known(); version < known && false {",
		pkg: "cluster/copies", test: "TestWhoGoesByAnOlderMapIsRefused",
	},
	{
		name: "a write does not wait for its replicas",
		file: "cluster/target/replicas.go",
		from: "	for range nodes {\n		err := <-failures\n", to: "	for range nodes {\n		var err error\n",
		pkg: "cluster/copies", test: "TestWritesAreOnAllTargetsOfTheList|TestATargetMayBeGone",
	},
	{
		name: "a lease counts though the map is an old one",
		file: "cluster/membership/membership.go",
		from: "func (m *Membership) Leased() bool { return int64(time.Since(start)) < m.leased.Load() }",
		to:   "func (m *Membership) Leased() bool { return int64(time.Since(start)) < m.leased.Load() || true }",
		pkg:  "cluster/membership", test: "TestALeaseIsWorthNothingWithoutTheNewestMap",
	},
	{
		name: "a copy is removed before others are known to have it",
		file: "cluster/heal/decide.go",
		from: "	d.Drop = d.Misplaced && !d.Unsure && !d.Lacking && len(copies) > 0", to: "	d.Drop = d.Misplaced",
		pkg: "tests/simulation", test: "TestProtocol",
	},
	{
		name: "what is removed needs no proof",
		file: "cluster/heal/deletes.go",
		from: "		if err := list[i].check(self, d.now()); err != nil {", to: "		if err := list[i].check(self, d.now()); err != nil && false {",
		pkg: "cluster/heal", test: "Test",
	},
	{
		name: "earlier sets of targets are forgotten though one that is away may have the newest",
		file: "cluster/heal/settle.go",
		from: "	return append(reasons, unseen(s)...)", to: "	_ = unseen\n	return reasons",
		pkg: "tests/simulation", test: "TestProtocol",
	},
	{
		name: "a key is answered for though nobody of its list was heard",
		file: "cluster/placement/layout.go",
		from: "	return left == 0 || sound == 0 && answered > 0", to: "	return true",
		pkg: "tests/simulation", test: "TestProtocol",
	},
	{
		name: "a primary shows what only it has",
		file: "cluster/target/resolve.go",
		from: "	if err := r.give(ctx, list, newest, f.holders); err != nil {", to: "	if err := error(nil); err != nil {",
		pkg: "cluster/copies", test: "TestWhatWasShownStays",
	},
	{
		name: "a replica is not told of a deletion",
		file: "cluster/target/write.go",
		from: "		return t.copies.With(p.version).Bury(ctx, node, p.bucket.Name, p.key, version)", to: "		return nil",
		pkg: "cluster/heal", test: "TestTombstonesGoOnceAllKnowOfTheDeletion",
	},
	{
		name: "a client does not verify what it reads",
		file: "cluster/api/reader.go",
		from: "r.want != \"\" && got != r.want {", to: "r.want != \"\" && got != r.want && false {",
		pkg: "cluster/api", test: "TestDamageOnTheWayIsSeen",
	},
}

// mutated is the file with the fault in it.
func (m *mutation) mutated(t *testing.T) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, m.file))
	require.NoError(t, err)
	require.Equal(t, 1, bytes.Count(content, []byte(m.from)), "%s: the mutation of %s no longer fits: make it anew", m.name, m.file)
	return bytes.Replace(content, []byte(m.from), []byte(m.to), 1)
}

// TestMutationsFit: each can be made, and the tests that are to notice exist.
func TestMutationsFit(t *testing.T) {
	for _, m := range mutations {
		m.mutated(t)
		sources, err := filepath.Glob(filepath.Join(root, m.pkg, "*_test.go"))
		require.NoError(t, err)
		var all []byte
		for _, path := range sources {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			all = append(all, content...)
		}
		for name := range strings.SplitSeq(m.test, "|") {
			require.Regexp(t, regexp.MustCompile(`(?m)^func `+name), string(all), "%s: no such test in %s", m.name, m.pkg)
		}
	}
}

// TestMutationsAreCaught makes each mutation.
func TestMutationsAreCaught(t *testing.T) {
	if !*full {
		t.Skip("takes minutes: make test-mutations")
	}
	caught := 0
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			out, err := m.run(t, filepath.Join(root, m.file))
			require.NoError(t, err, "%s of %s fails without the mutation:\n%s", m.test, m.pkg, out)
			began := time.Now()
			path := filepath.Join(t.TempDir(), "mutated.go")
			require.NoError(t, os.WriteFile(path, m.mutated(t), 0o600))
			out, err = m.run(t, path)
			require.NotContains(t, string(out), "[build failed]", "%s", out)
			require.Error(t, err, "SURVIVED: %s of %s notices nothing", m.test, m.pkg)
			require.Contains(t, string(out), "--- FAIL", "%s", out)
			t.Logf("caught by %s of %s in %v", m.test, m.pkg, time.Since(began).Round(time.Second))
			caught++
		})
	}
	t.Logf("%d of %d mutations caught", caught, len(mutations))
}

// run runs the test with the file in the place of the one that the mutation changes.
func (m *mutation) run(t *testing.T, file string) ([]byte, error) {
	t.Helper()
	original, err := filepath.Abs(filepath.Join(root, m.file))
	require.NoError(t, err)
	instead, err := filepath.Abs(file)
	require.NoError(t, err)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: instead}})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "overlay.json")
	require.NoError(t, os.WriteFile(path, overlay, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout", "4m", "-overlay", path, "-run", "^("+m.test+")", "./"+m.pkg)
	command.Dir = root
	return command.CombinedOutput()
}
