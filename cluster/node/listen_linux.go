package node

import "golang.org/x/sys/unix"

// setCongestion chooses cubic: where the host's default is bbr, a local stream would run at two thirds
// of its speed. A kernel without it keeps its own choice.
func setCongestion(fd int) {
	_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
}
