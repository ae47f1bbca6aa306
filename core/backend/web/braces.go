package web

import (
	"fmt"
	"strconv"
	"strings"
)

// expand is the names that a template stands for: {0000..0146} is a range, whose numbers are as wide as the first is
// written, {a,b} a choice. Braces do not lie within each other.
func expand(text string) ([]string, error) {
	open := strings.IndexAny(text, "{}")
	if open < 0 {
		return []string{text}, nil
	}
	length := strings.IndexAny(text[open+1:], "{}")
	if text[open] != '{' || length < 0 || text[open+1+length] != '}' {
		return nil, fmt.Errorf("the braces of %.200q do not match", text)
	}
	choices, err := choices(text[open+1 : open+1+length])
	if err != nil {
		return nil, err
	}
	rest, err := expand(text[open+length+2:])
	if err != nil {
		return nil, err
	}
	if len(choices) > maxNames/len(rest) {
		return nil, fmt.Errorf("%.200q stands for more than %d names", text, maxNames)
	}
	names := make([]string, 0, len(choices)*len(rest))
	for _, choice := range choices {
		for _, end := range rest {
			names = append(names, text[:open]+choice+end)
		}
	}
	return names, nil
}

func choices(text string) ([]string, error) {
	first, last, found := strings.Cut(text, "..")
	if !found {
		return strings.Split(text, ","), nil
	}
	from, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("{%.100s} is no range, such as {0000..0146}", text)
	}
	to, err := strconv.ParseUint(last, 10, 32)
	if err != nil || to < from || to-from >= maxNames {
		return nil, fmt.Errorf("{%.100s} is no range of at most %d numbers, such as {0000..0146}", text, maxNames)
	}
	numbers := make([]string, 0, to-from+1)
	for n := from; n <= to; n++ {
		numbers = append(numbers, fmt.Sprintf("%0*d", len(first), n))
	}
	return numbers, nil
}
