package main

import (
	"strconv"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/loader"
)

// mixFlags describe a mixture on the command line.
type mixFlags struct {
	sources    []string // ADDRESS, or ADDRESS=WEIGHT
	interleave string
	samples    int64
}

// describe makes the sources, shuffle and etl of a stream those of its mixture, if there is one.
func (m *mixFlags) describe(config *loader.Config, sources []string) error {
	switch {
	case len(m.sources) == 0 && len(sources) == 0:
		return usagef("give a source, such as ss://bucket/train-*.tar, or several with --mix")
	case len(m.sources) == 0 && (m.interleave != "" || m.samples != 0):
		return usagef("--interleave and --mix-samples are about a mixture: give its sources with --mix")
	case len(m.sources) == 0:
		config.Sources = sources
		return nil
	case len(sources) > 0:
		return usagef("give all sources with --mix, or none: %s has no share of the mixture", sources[0])
	}
	config.Mixture = &loader.Mixture{Interleave: m.interleave, Samples: m.samples}
	for _, text := range m.sources {
		source, err := mixSource(text)
		if err != nil {
			return err
		}
		source.Shuffle, source.ETL = config.Shuffle, config.ETL
		config.Mixture.Sources = append(config.Mixture.Sources, source)
	}
	config.Shuffle, config.ETL = "", ""
	return nil
}

// mixSource reads ADDRESS or ADDRESS=WEIGHT.
func mixSource(text string) (api.MixtureSource, error) {
	at := strings.LastIndexByte(text, '=')
	if at < 0 {
		return api.MixtureSource{Sources: []string{text}}, nil
	}
	weight, err := strconv.ParseFloat(text[at+1:], 64)
	if err != nil {
		return api.MixtureSource{}, usagef("--mix %q is not ADDRESS=WEIGHT: %q is no number", text, text[at+1:])
	}
	return api.MixtureSource{Sources: []string{text[:at]}, Weight: &weight}, nil
}
