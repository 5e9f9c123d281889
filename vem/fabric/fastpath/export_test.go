package fastpath

// Sources counts the addresses that translated devices let through.
func (t *Table) Sources() (count int) {
	var key origin
	var value [16]byte
	for all := t.sources.Iterate(); all.Next(&key, &value); {
		count++
	}
	return count
}
