package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ReadRecords reads an image; a missing one has none.
func ReadRecords(path string, want Type) ([]Record, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	img, err := DecodeAs(want, data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return img.Records, nil
}

// ReadMessages reads an image; a missing one has no messages.
func ReadMessages[T any, M Message[T]](images, name string, want Type) ([]M, error) {
	records, err := ReadRecords(filepath.Join(images, name), want)
	if err != nil {
		return nil, err
	}
	out := make([]M, len(records))
	for i, r := range records {
		if out[i], err = Unmarshal[T, M](r.Message); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	return out, nil
}
