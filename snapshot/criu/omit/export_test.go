package omit

import "github.com/snapctl/snapctl/snapshot/pagescan"

// Hold has the next question of CRIU, after one from which pages were left out, wait for ever.
func (o *Omission) Hold() {
	for {
		o.mu.Lock()
		for _, f := range o.files {
			if f.set.left > 0 {
				return
			}
		}
		o.mu.Unlock()
	}
}

// Scan asks for the pages of a pagemap, of which there is none.
func Scan(fd int) error {
	ask := pagescan.Arg{Size: pagescan.Size, AnyOf: pagescan.Present, Return: pagescan.Present}
	_, err := ask.Scan(uintptr(fd), nil)
	return err
}
