// Command program is what the test image holds: an ETL server, or a filter, that misbehaves when it is told to.
//
//	program serve    listens on $SHARDSTREAM_SOCKET, else on $PORT; upper-cases
//	program filter   stdin to stdout, in upper case
//	program silent   never listens
//	program exit N   says something and ends with status N
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/samples"
)

func main() {
	what := "serve"
	if len(os.Args) > 1 {
		what = os.Args[1]
	}
	var err error
	switch what {
	case "serve":
		err = serve()
	case "filter":
		err = filter()
	case "silent":
		fmt.Println("I say nothing on any port")
		time.Sleep(time.Hour)
	case "exit":
		fmt.Println("these are my last words")
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	}
	if err != nil {
		fmt.Println("program:", err)
		os.Exit(1)
	}
}

// arguments are those of a call.
type arguments struct {
	Mode   string `json:"mode"`
	Suffix string `json:"suffix"`
}

// misbehave does what the mode says before anything is answered.
func misbehave(mode string) error {
	switch mode {
	case "fail":
		return errors.New("bad image\nat line 7")
	case "hang":
		time.Sleep(time.Hour)
	case "die":
		fmt.Println("dying as I was told")
		os.Exit(7)
	case "oom":
		var hoard [][]byte
		for {
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = 1
			}
			hoard = append(hoard, block)
			_ = hoard
		}
	case "environment":
		return errors.New(strings.Join(os.Environ(), " ") + fmt.Sprintf(" uid=%d", os.Getuid()))
	}
	return nil
}

func serve() error {
	var listener net.Listener
	var err error
	if socket := os.Getenv("SHARDSTREAM_SOCKET"); socket != "" && os.Getenv("ONLY_PORT") == "" {
		if listener, err = net.Listen("unix", socket); err == nil {
			err = os.Chmod(socket, 0o666)
		}
	} else {
		listener, err = net.Listen("tcp", ":"+os.Getenv("PORT"))
	}
	if err != nil {
		return err
	}
	fmt.Println("listening on", listener.Addr())
	http.HandleFunc("/", handle)
	http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "Running") })
	http.HandleFunc("/samples", handleSamples)
	server := http.Server{ReadHeaderTimeout: time.Minute}
	return server.Serve(listener)
}

func handle(w http.ResponseWriter, r *http.Request) {
	var args arguments
	_ = json.Unmarshal([]byte(r.URL.Query().Get("etl_args")), &args)
	if err := misbehave(args.Mode); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body := io.Reader(r.Body)
	if r.Method == http.MethodGet {
		answer, err := http.Get(os.Getenv("SHARDSTREAM_TARGET_URL") + r.URL.EscapedPath())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			http.Error(w, "the target answered "+answer.Status, http.StatusBadGateway)
			return
		}
		body = answer.Body
	}
	w.Header().Set("Content-Type", "text/plain")
	switch args.Mode {
	case "half":
		w.Header().Set("Content-Length", "1000000")
		_, _ = w.Write(make([]byte, 1000))
		_ = http.NewResponseController(w).Flush()
		_ = misbehave("die")
	case "flood":
		block := make([]byte, 1<<20)
		for {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	case "path":
		fmt.Fprint(w, r.Method, " ", r.URL.EscapedPath())
		return
	}
	_ = http.NewResponseController(w).EnableFullDuplex()
	_, _ = io.Copy(upper{w}, body)
	fmt.Fprint(w, args.Suffix)
}

// upper writes in upper case.
type upper struct{ io.Writer }

func (u upper) Write(p []byte) (int, error) { return u.Writer.Write(bytes.ToUpper(p)) }

func handleSamples(w http.ResponseWriter, r *http.Request) {
	var args arguments
	_ = json.Unmarshal([]byte(r.URL.Query().Get("etl_args")), &args)
	if err := misbehave(args.Mode); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	var message bytes.Buffer
	writer := samples.NewWriter(&message)
	reader := samples.NewReader(r.Body, samples.Limits{})
	for {
		result, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		txt, _ := result.Field("txt")
		if string(txt.Data) == "bad" {
			_ = writer.Fault("ValueError: bad text", "in line 3")
			continue
		}
		_ = writer.Sample(&etl.Sample{Fields: []etl.Field{{Name: "txt", Value: etl.BytesValue(append(bytes.ToUpper(txt.Data), args.Suffix...))}}})
	}
	_ = writer.Close()
	w.Header().Set("Content-Type", samples.ContentType)
	_, _ = w.Write(message.Bytes())
}

func filter() error {
	var args arguments
	_ = json.Unmarshal([]byte(os.Getenv("SHARDSTREAM_ARGS")), &args)
	fmt.Fprintln(os.Stderr, "filtering", os.Getenv("SHARDSTREAM_OBJECT"))
	if err := misbehave(args.Mode); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	if args.Mode == "flood" {
		for {
			if _, err := os.Stdout.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
	}
	if _, err := io.Copy(upper{os.Stdout}, os.Stdin); err != nil {
		return err
	}
	if args.Mode == "late" {
		fmt.Fprintln(os.Stderr, "it went wrong at the very end")
		os.Exit(5)
	}
	_, err := os.Stdout.WriteString(os.Getenv("SHARDSTREAM_ARG_suffix"))
	return err
}
