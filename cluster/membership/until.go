package membership

import "context"

// Until returns the first view for which holds is true, the present one or a later. The context bounds the wait.
func (m *Membership) Until(ctx context.Context, holds func(*View) bool) (*View, error) {
	for {
		m.mu.Lock()
		changed := m.changed
		m.mu.Unlock()
		if v := m.View(); holds(v) {
			return v, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, &UnavailableError{Err: context.Cause(ctx)}
		}
	}
}
