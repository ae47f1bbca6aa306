package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// ReportFD is the descriptor on which a detached supervisor reports.
const ReportFD = 3

// Report is what a detached supervisor tells the process that started it: that the cluster is
// ready, or why it never will be.
type Report struct {
	Endpoint string `json:"endpoint"`
	Dir      string `json:"dir"`
	PID      int    `json:"pid"` // of the supervisor
	Error    string `json:"error,omitempty"`
}

// Send writes the report to ReportFD and closes it.
func (r Report) Send() error {
	file := os.NewFile(ReportFD, "report")
	return errors.Join(json.NewEncoder(file).Encode(r), file.Close())
}

// Detach starts a supervisor (args are its command line, which must lead to Up and Report.Send) in a
// session of its own, and returns when the cluster is ready.
func Detach(ctx context.Context, dir string, args []string) (Report, error) {
	layout, err := NewLayout(dir)
	if err != nil {
		return Report{}, err
	}
	if err := layout.make(); err != nil {
		return Report{}, err
	}
	output, err := os.OpenFile(layout.log(supervisorName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return Report{}, err
	}
	defer output.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		return Report{}, err
	}
	defer reader.Close()

	cmd := exec.Command(ownBinary, args...)
	cmd.Args[0] = "shardstream"
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{writer} // becomes ReportFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	if closeErr := writer.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return Report{}, fmt.Errorf("start the supervisor: %w", err)
	}
	return awaitReport(ctx, cmd, reader, layout)
}

func awaitReport(ctx context.Context, cmd *exec.Cmd, reader *os.File, layout Layout) (Report, error) {
	type result struct {
		report Report
		err    error
	}
	reported := make(chan result, 1)
	go func() { // ends with the report, or when the supervisor ends and so closes the pipe
		var r result
		r.err = json.NewDecoder(io.LimitReader(reader, 1<<20)).Decode(&r.report)
		reported <- r
	}()
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	select {
	case <-ctx.Done():
		stop()
		return Report{}, ctx.Err()
	case <-time.After(readyTimeout + 2*nodeGrace):
		stop()
		return Report{}, fmt.Errorf("the supervisor said nothing; see %s", layout.log(supervisorName))
	case r := <-reported:
		switch {
		case r.err != nil:
			_ = cmd.Wait()
			return Report{}, fmt.Errorf("the supervisor ended before the cluster was ready; the end of its log, %s:\n%s",
				layout.log(supervisorName), tailOf(layout.log(supervisorName), 12))
		case r.report.Error != "":
			_ = cmd.Wait()
			return Report{}, errors.New(r.report.Error)
		}
		return r.report, cmd.Process.Release()
	}
}
