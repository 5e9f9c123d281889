package task

import (
	"context"
	"testing"
)

func TestTasksEndWithTheirContext(t *testing.T) {
	tasks := NewTasks(t.Context())
	began, ended := make(chan struct{}), make(chan struct{})
	tasks.Run(func(ctx context.Context) {
		close(began)
		<-ctx.Done()
		close(ended)
	})
	<-began
	tasks.Stop()
	select {
	case <-ended:
	default:
		t.Error("Stop did not wait")
	}
}
