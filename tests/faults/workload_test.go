package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	registers     = 20
	registerSize  = 20_000 // bytes at most
	workers       = 4
	patience      = 30 * time.Second // that a read is repeated for
	callDeadline  = 15 * time.Second // no request takes longer, whatever happens
	workloadTable = "faults"
)

// workload is clients at work while things break: some read and write a few keys as registers, whose history is
// recorded for a checker of linearizability; some write objects once, into a ledger that is on disk before the
// next fault, and read them back; one lists.
type workload struct {
	f      *fleet
	path   string // of the ledger
	seed   uint64
	began  time.Time
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	history map[string][]porcupine.Operation
	etags   map[string]int // of register values
	ledger  *os.File
	entries []entry

	values, puts, reads, refused, lists atomic.Int64
	slowest                             atomic.Int64 // read, in nanoseconds, its repetitions included
}

// entry is an acknowledged object of the ledger: its bytes follow from its name and number.
type entry struct {
	Key    string `json:"key"`
	Number int    `json:"number"`
	at     time.Time
}

// begin makes the bucket and starts the clients.
func (f *fleet) begin(seed uint64, properties api.BucketChange) *workload {
	f.t.Helper()
	_, err := f.client.CreateBucketWith(f.t.Context(), workloadTable, properties)
	require.NoError(f.t, err)
	w := &workload{
		f: f, path: filepath.Join(f.dir, "ledger.jsonl"), seed: seed, began: time.Now(),
		history: map[string][]porcupine.Operation{}, etags: map[string]int{},
	}
	w.ledger, err = os.Create(w.path)
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	for i := range workers {
		w.done.Go(func() { w.useRegisters(ctx, i) })
	}
	w.done.Go(func() { w.writeLedger(ctx) })
	w.done.Go(func() { w.readLedger(ctx) })
	w.done.Go(func() { w.list(ctx) })
	f.t.Cleanup(func() { cancel(); w.done.Wait() })
	return w
}

// synced has all that was acknowledged until now on disk: what comes next may break anything.
func (w *workload) synced() {
	w.mu.Lock()
	defer w.mu.Unlock()
	require.NoError(w.f.t, w.ledger.Sync())
}

// content is the bytes of a number, which name it all along: whatever byte comes back wrong tells where it is from.
func content(key string, number int) []byte {
	size := 16 + int(uint(number)*7919%registerSize)
	body := make([]byte, size)
	random := rand.New(rand.NewPCG(uint64(number), uint64(len(key))))
	binary.LittleEndian.PutUint64(body, uint64(number))
	for i := 8; i < size; i++ {
		body[i] = byte(random.Uint32())
	}
	return body
}

// numberOf tells the number of bytes, which have to be exactly its.
func numberOf(key string, body []byte) (int, error) {
	if len(body) < 16 {
		return 0, fmt.Errorf("%s has %d bytes, which nobody wrote", key, len(body))
	}
	number := int(binary.LittleEndian.Uint64(body))
	if !bytes.Equal(body, content(key, number)) {
		return 0, fmt.Errorf("%s: %d bytes that begin like version %d, and are not its", key, len(body), number)
	}
	return number, nil
}

// answer is what came back for a request: an error where that is not known.
type answer struct {
	status int
	etag   string
	body   []byte
	code   string
	// unsent: a gateway answered itself. It has sent no target the request, so nothing came of it.
	unsent bool
}

// ask sends one request to a gateway and follows its redirects. It is never repeated.
func (w *workload) ask(random *rand.Rand, method, key string, body []byte, header http.Header) (answer, error) {
	url := w.f.gateways[random.IntN(len(w.f.gateways))] + api.ObjectPath(workloadTable, key)
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body == nil {
		request.Body = http.NoBody
	}
	for k, v := range header {
		request.Header[k] = v
	}
	asked := time.Now()
	response, err := w.f.http.Do(request)
	if err == nil {
		defer response.Body.Close()
		a := answer{status: response.StatusCode, etag: response.Header.Get("Etag"), unsent: response.Request.URL.Host == request.URL.Host}
		if a.body, err = io.ReadAll(response.Body); err == nil {
			var failure api.ErrorBody
			if a.status >= 300 && json.Unmarshal(a.body, &failure) == nil && failure.Error != nil {
				a.code = failure.Error.Code
			}
			return a, nil
		}
	}
	if took := time.Since(asked); took > callDeadline+5*time.Second {
		w.f.t.Errorf("%s %s took %v", method, key, took)
	}
	return answer{}, err
}

// useRegisters does random operations on the registers.
func (w *workload) useRegisters(ctx context.Context, by int) {
	random := rand.New(rand.NewPCG(w.seed, uint64(by)))
	for ctx.Err() == nil {
		key := fmt.Sprintf("register/%02d", random.IntN(registers))
		op := registerOp{kind: random.IntN(10), value: int(w.values.Add(1))}
		called := int64(time.Since(w.began))
		var a answer
		var err error
		switch op.kind {
		case 0, 1, 2, 3:
			op.kind, op.value = opRead, 0
			a, err = w.ask(random, http.MethodGet, key, nil, nil)
		case 4:
			op.kind, op.value = opRemove, 0
			a, err = w.ask(random, http.MethodDelete, key, nil, nil)
		case 5:
			op.kind = opCreate
			a, err = w.ask(random, http.MethodPut, key, content(key, op.value), http.Header{"If-None-Match": {"*"}})
		case 6:
			op.kind = opReplace
			var etag string
			if etag, op.old = w.current(random, key); etag == "" {
				continue
			}
			a, err = w.ask(random, http.MethodPut, key, content(key, op.value), http.Header{"If-Match": {etag}})
		default:
			op.kind = opWrite
			a, err = w.ask(random, http.MethodPut, key, content(key, op.value), nil)
		}
		w.record(by, key, op, called, a, err)
		if err != nil || a.status >= http.StatusInternalServerError {
			time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond) // or histories fill up with refusals
		} else {
			time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
		}
	}
}

// current reads a register for its entity tag; what it saw is no part of the history.
func (w *workload) current(random *rand.Rand, key string) (string, int) {
	a, err := w.ask(random, http.MethodGet, key, nil, nil)
	if err != nil || a.status != http.StatusOK {
		return "", 0
	}
	number, err := numberOf(key, a.body)
	if err != nil {
		w.f.t.Error(err)
		return "", 0
	}
	return a.etag, number
}

// record notes an operation and what came of it.
func (w *workload) record(by int, key string, op registerOp, called int64, a answer, err error) {
	got := registerResult{unknown: err != nil}
	switch {
	case err != nil:
	case a.status == http.StatusPreconditionFailed:
		got.failed = true
	case a.status == http.StatusNotFound && (op.kind == opRead || op.kind == opRemove):
	case a.status < 300 && op.kind == opRead:
		if got.value, err = numberOf(key, a.body); err != nil {
			w.f.t.Error(err)
		}
	case a.status < 300:
	case a.status == http.StatusServiceUnavailable || a.status == http.StatusConflict || a.status == http.StatusBadGateway ||
		a.status == http.StatusRequestTimeout || a.status == http.StatusGatewayTimeout:
		got.unknown = true
		w.refused.Add(1)
	default:
		w.f.t.Errorf("%s of %s: %d %s", opNames[op.kind], key, a.status, a.body)
		got.unknown = true
	}
	returned := int64(time.Since(w.began))
	w.mu.Lock()
	defer w.mu.Unlock()
	if got.unknown {
		if op.kind == opRead || a.code == api.CodeTooFew || a.unsent {
			return // each write that may or may not have taken effect doubles what the checker has to try
		}
		returned = math.MaxInt64 - int64(len(w.history[key]))
	}
	w.history[key] = append(w.history[key], porcupine.Operation{ClientId: by, Input: op, Call: called, Output: got, Return: returned})
}

// writeLedger puts objects that are never written again.
func (w *workload) writeLedger(ctx context.Context) {
	random := rand.New(rand.NewPCG(w.seed, 100))
	for number := 1; ctx.Err() == nil; number++ {
		key := fmt.Sprintf("ledger/%06d", number)
		a, err := w.ask(random, http.MethodPut, key, content(key, number), nil)
		if err != nil || a.status >= 300 {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		e := entry{Key: key, Number: number, at: time.Now()}
		line, _ := json.Marshal(e)
		w.mu.Lock()
		w.entries = append(w.entries, e)
		_, err = w.ledger.Write(append(line, '\n'))
		w.mu.Unlock()
		if err != nil {
			w.f.t.Error(err)
		}
		w.puts.Add(1)
		time.Sleep(5 * time.Millisecond)
	}
}

// readLedger reads objects that were acknowledged: each has to come, if only after some attempts.
func (w *workload) readLedger(ctx context.Context) {
	random := rand.New(rand.NewPCG(w.seed, 101))
	for ctx.Err() == nil {
		w.mu.Lock()
		var e entry
		if len(w.entries) > 0 {
			e = w.entries[random.IntN(len(w.entries))]
		}
		w.mu.Unlock()
		if e.Key != "" {
			began := time.Now()
			if err := w.readEntry(ctx, random, e); err != nil && ctx.Err() == nil {
				w.f.t.Error(err)
			}
			w.slowest.Store(max(w.slowest.Load(), int64(time.Since(began))))
			w.reads.Add(1)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

var errLost = errors.New("an acknowledged object is gone")

// readEntry reads one object of the ledger, again while that fails. That it is not there, or is another, is no failure that
// an attempt may repair.
func (w *workload) readEntry(ctx context.Context, random *rand.Rand, e entry) error {
	deadline := time.Now().Add(patience)
	for {
		a, err := w.ask(random, http.MethodGet, e.Key, nil, nil)
		switch {
		case err == nil && a.status == http.StatusOK:
			number, err := numberOf(e.Key, a.body)
			if err == nil && number != e.Number {
				err = fmt.Errorf("%s holds version %d", e.Key, number)
			}
			return err
		case err == nil && a.status == http.StatusNotFound:
			return fmt.Errorf("%s: %w", e.Key, errLost)
		case ctx.Err() != nil:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s can't be read within %v: %d %s %w", e.Key, patience, a.status, a.body, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// list lists all again and again: each listing that is no error has all that was acknowledged before it began, once.
func (w *workload) list(ctx context.Context) {
	for ctx.Err() == nil {
		w.mu.Lock()
		known := len(w.entries)
		w.mu.Unlock()
		times := map[string]int{}
		var failed error
		for object, err := range w.f.client.Objects(ctx, workloadTable, api.ListOptions{Prefix: "ledger/"}) {
			if failed = err; err != nil {
				break
			}
			times[object.Name]++
		}
		if failed == nil && ctx.Err() == nil {
			w.lists.Add(1)
			w.mu.Lock()
			for _, e := range w.entries[:known] {
				if times[e.Key] != 1 {
					w.f.t.Errorf("%s is listed %d times", e.Key, times[e.Key])
				}
			}
			w.mu.Unlock()
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// finish ends the clients, and holds the cluster to what they saw.
func (w *workload) finish() {
	t := w.f.t
	t.Helper()
	w.cancel()
	w.done.Wait()
	require.NoError(t, w.ledger.Close())
	random := rand.New(rand.NewPCG(w.seed, 102))
	for _, e := range ledgerOf(t, w.path) {
		require.NoError(t, w.readEntry(t.Context(), random, e))
	}
	w.readRegisters(random)
	operations := 0
	for key, history := range w.history {
		operations += len(history)
		result, info := porcupine.CheckOperationsVerbose(registerModel, history, 2*time.Minute)
		if result != porcupine.Ok {
			path := filepath.Join(os.TempDir(), "shardstream-history-"+strconv.FormatUint(w.seed, 10)+".html")
			_ = porcupine.VisualizePath(registerModel, info, path)
			t.Errorf("%s: the history is not linearizable (%v): %s", key, result, path)
		}
	}
	t.Logf("%d register operations, %d refused; %d objects acknowledged, %d read, the slowest in %v; %d listings",
		operations, w.refused.Load(), w.puts.Load(), w.reads.Load(), time.Duration(w.slowest.Load()).Round(time.Millisecond), w.lists.Load())
}

// readRegisters ends each history with what is there now.
func (w *workload) readRegisters(random *rand.Rand) {
	for i := range registers {
		key := fmt.Sprintf("register/%02d", i)
		for deadline := time.Now().Add(patience); ; {
			called := int64(time.Since(w.began))
			a, err := w.ask(random, http.MethodGet, key, nil, nil)
			if err == nil && (a.status == http.StatusOK || a.status == http.StatusNotFound) {
				w.record(0, key, registerOp{kind: opRead}, called, a, nil)
				break
			}
			require.True(w.f.t, time.Now().Before(deadline), "%s can't be read: %d %s %v", key, a.status, a.body, err)
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// ledgerOf reads a ledger from its file.
func ledgerOf(t *testing.T, path string) []entry {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	var entries []entry
	for decoder := json.NewDecoder(file); ; {
		var e entry
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			return entries
		}
		require.NoError(t, err)
		entries = append(entries, e)
	}
}
