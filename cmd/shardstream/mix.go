package main

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

// mixFlags describe a mixture on the command line.
type mixFlags struct {
	sources    []string // ADDRESS, or ADDRESS=WEIGHT
	interleave string
	samples    int64
}

func (m *mixFlags) register(command *cobra.Command) {
	flags := command.Flags()
	flags.StringArrayVar(&m.sources, "mix", nil, "one source of a mixture, as ADDRESS or ADDRESS=WEIGHT; repeat it")
	flags.StringVar(&m.interleave, "interleave", "", "how a mixture's sources come together: random, stratified or per_source")
	flags.Int64Var(&m.samples, "mix-samples", 0, "samples of a mixture's epoch; 0 for as many as its sources have")
}

// mixture is what the flags describe, with the shuffle and transformation of all its sources; nil where
// the stream is of plain sources. Either is an error where it is not a stream at all.
func (m *mixFlags) mixture(sources []string, shuffle, etl string, args json.RawMessage) (*api.Mixture, error) {
	switch {
	case len(m.sources) == 0 && len(sources) == 0:
		return nil, usagef("give a source, such as ss://bucket/train-*.tar, or several with --mix")
	case len(m.sources) == 0 && (m.interleave != "" || m.samples != 0):
		return nil, usagef("--interleave and --mix-samples are about a mixture: give its sources with --mix")
	case len(m.sources) == 0:
		return nil, checkAddresses(sources)
	case len(sources) > 0:
		return nil, usagef("give all sources with --mix, or none: %s has no share of the mixture", sources[0])
	case m.samples < 0:
		return nil, usagef("--mix-samples must be 0 or more, not %d", m.samples)
	}
	mixture := &api.Mixture{Interleave: m.interleave, Samples: m.samples}
	for _, text := range m.sources {
		source, err := mixSource(text)
		if err != nil {
			return nil, err
		}
		source.Shuffle, source.ETL, source.ETLArgs = shuffle, etl, args
		mixture.Sources = append(mixture.Sources, source)
	}
	return mixture, nil
}

// mixSource reads ADDRESS or ADDRESS=WEIGHT.
func mixSource(text string) (api.MixtureSource, error) {
	address, number, weighted := text, "", false
	if at := strings.LastIndexByte(text, '='); at > 0 { // before an address it says that the name is exact
		address, number, weighted = text[:at], text[at+1:], true
	}
	source := api.MixtureSource{Sources: []string{address}}
	if err := checkAddresses(source.Sources); err != nil {
		return source, err
	}
	if weighted {
		weight, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(weight) || math.IsInf(weight, 0) || weight < 0 {
			return source, usagef("--mix %q is not ADDRESS=WEIGHT: %q is no number of 0 or more", text, number)
		}
		source.Weight = &weight
	}
	return source, nil
}

// checkAddresses refuses what can't be a source before the cluster is asked.
func checkAddresses(sources []string) error {
	for _, source := range sources {
		address := strings.TrimPrefix(strings.TrimPrefix(source, api.ManifestPrefix), api.ExactPrefix)
		if !strings.HasPrefix(address, api.Scheme) {
			return usagef("address %.200q does not begin with %s: write ss://bucket/key", source, api.Scheme)
		}
	}
	return nil
}
