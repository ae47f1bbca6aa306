package faults

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// Operations on a register: an object of a few that many clients write and read.
const (
	opRead = iota
	opWrite
	opRemove
	opCreate  // where nothing is there
	opReplace // where what is there is the old value
)

var opNames = []string{"read", "write", "remove", "create", "replace"}

// registerOp is an operation; values are numbers that are never given twice, 0 for nothing.
type registerOp struct{ kind, value, old int }

// registerResult is what came of it.
type registerResult struct {
	value   int
	failed  bool // the condition did not hold
	unknown bool // it may take effect at any time, or never
}

// registerModel is what a register is: one value, that each operation sees or changes at one moment between its call and
// its answer.
var registerModel = porcupine.Model{
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		now, op, got := state.(int), input.(registerOp), output.(registerResult)
		holds := true
		switch op.kind {
		case opRead:
			return got.value == now, now
		case opCreate:
			holds = now == 0
		case opReplace:
			holds = now == op.old
		}
		if !holds {
			return got.unknown || got.failed, now
		}
		return !got.failed, op.value
	},
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%s%+v: %+v", opNames[input.(registerOp).kind], input, output)
	},
}
