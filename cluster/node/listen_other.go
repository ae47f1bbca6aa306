//go:build !linux

package node

// setCongestion is for Linux, where it can be chosen by socket.
func setCongestion(int) {}
