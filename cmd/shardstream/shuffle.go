package main

import "github.com/spf13/pflag"

// autoShuffle leaves the shuffle to the cluster.
const autoShuffle = "auto"

// shuffleValue is a shuffle on the command line, where the cluster's choice has a name.
type shuffleValue struct{ to *string }

func shuffleFlag(flags *pflag.FlagSet, to *string) {
	flags.Var(shuffleValue{to}, "shuffle",
		"order: global, window, shards, none, or auto for windows that fit the cache where a source's bucket has a backend, else global")
}

// Set implements pflag.Value.
func (v shuffleValue) Set(text string) error {
	if *v.to = text; text == autoShuffle {
		*v.to = ""
	}
	return nil
}

// String implements pflag.Value.
func (v shuffleValue) String() string {
	if v.to == nil || *v.to == "" {
		return autoShuffle
	}
	return *v.to
}

// Type implements pflag.Value.
func (v shuffleValue) Type() string { return "string" }
