package server

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A container writes into the directory of its socket: what it puts there must not lead the node to another one.
func TestSocketOfAContainerIsNoLink(t *testing.T) {
	dir, err := os.MkdirTemp("", "socket-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	other := filepath.Join(dir, "machine.sock")
	listener, err := net.Listen("unix", other)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })

	socket := filepath.Join(dir, socketName)
	require.NoError(t, os.Symlink(other, socket))
	_, err = dialSocket(t.Context(), socket)
	require.ErrorContains(t, err, "is no socket")
	require.NoError(t, os.Remove(socket))
	require.NoError(t, os.WriteFile(socket, nil, 0o600))
	_, err = dialSocket(t.Context(), socket)
	require.ErrorContains(t, err, "is no socket")

	long := filepath.Join(dir, strings.Repeat("x", 120)) // longer than a socket's address can be
	require.NoError(t, os.Mkdir(long, 0o700))
	require.NoError(t, os.Rename(other, filepath.Join(long, socketName)))
	conn, err := dialSocket(t.Context(), filepath.Join(long, socketName))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}
