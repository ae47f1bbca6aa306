package etl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// MaxChain is how many transformations may follow each other.
const MaxChain = 8

// Step is one transformation of a chain, with the arguments that a request gives it.
type Step struct {
	Name string
	Args Args
}

// ParseChain reads names, as in "a,b", and their arguments: a JSON object where there is one name, else a list with an
// object or null for each. No names are no steps. The error is a *DefinitionError.
func ParseChain(names string, args json.RawMessage) ([]Step, error) {
	args = bytes.TrimSpace(args)
	if string(args) == "null" {
		args = nil
	}
	if names == "" {
		if len(args) > 0 {
			return nil, &DefinitionError{"etl_args", "is given, but no etl"}
		}
		return nil, nil
	}
	list := strings.Split(names, ",")
	if len(list) > MaxChain {
		return nil, &DefinitionError{"etl", fmt.Sprintf("%d transformations in a row, at most %d", len(list), MaxChain)}
	}
	each, err := argsOfEach(len(list), args)
	if err != nil {
		return nil, err
	}
	steps := make([]Step, len(list))
	for i, name := range list {
		if !ValidName(name) {
			return nil, &DefinitionError{"etl", fmt.Sprintf("%q in %q is not a name", clip(name, 80), clip(names, 200))}
		}
		if err := ValidateArgs(each[i]); err != nil {
			return nil, err
		}
		steps[i] = Step{Name: name, Args: each[i]}
	}
	return steps, nil
}

// argsOfEach takes the arguments of n steps apart.
func argsOfEach(n int, args json.RawMessage) ([]Args, error) {
	each := make([]Args, n)
	switch {
	case len(args) == 0:
	case args[0] == '[':
		var list []json.RawMessage
		if err := json.Unmarshal(args, &list); err != nil {
			return nil, &DefinitionError{"etl_args", "is not JSON: " + err.Error()}
		}
		if len(list) != n {
			return nil, &DefinitionError{"etl_args", fmt.Sprintf("%d arguments for %d transformations: give one JSON object, or null, for each", len(list), n)}
		}
		for i := range list {
			if string(list[i]) != "null" {
				each[i] = list[i]
			}
		}
	case n > 1:
		return nil, &DefinitionError{"etl_args", fmt.Sprintf("of %d transformations is a list with one JSON object, or null, for each", n)}
	default:
		each[0] = args
	}
	return each, nil
}
