package backend

import (
	"fmt"
	"slices"
	"strings"
)

// CheckFields refuses credentials with fields that the backend does not know: a misspelt one would silently be another
// way to sign in, or none.
func (c Config) CheckFields(known ...string) error {
	for field := range c.Credentials {
		if !slices.Contains(known, field) {
			return &Error{
				Backend: c.Address.String(), Op: "connect", Kind: Denied,
				Err: fmt.Errorf("the secret has a field %.60q; %s backends take %s", field, c.Scheme, strings.Join(known, ", ")),
			}
		}
	}
	return nil
}
