package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"unicode/utf8"

	"github.com/hashicorp/go-memdb"
)

// Index finds rows of a table by other values than their key.
type Index[T any] struct {
	// Name is what Table.By is asked with; unique in its table, and not "id".
	Name string
	// Unique says that no two rows may have a value in common.
	Unique bool
	// Keys returns the row's values in this index, any number of them. It must depend on
	// the row alone.
	Keys func(T) []string
}

// Table is a kind of row: its name, its key, its indexes. It holds no rows itself, so one
// Table can serve several DBs, and may be a package's variable. Rows are values: what Put
// took and Get gave is shared by all readers, so nobody may write through a pointer, slice
// or map in it.
type Table[T any] struct {
	name    string
	key     func(T) string
	indexes []Index[T]
}

// AnyTable is a *Table of any row type.
type AnyTable interface {
	tableName() string
	schema() (*memdb.TableSchema, error)
	decode(r Row) (record, error)
	insert(txn *memdb.Txn, r record) error
}

// record is a row in memory.
type record interface {
	rowKey() string
	value() any
}

type row[T any] struct {
	key string
	val T
}

func (r *row[T]) rowKey() string { return r.key }
func (r *row[T]) value() any     { return r.val }

// ConflictError says that a row was refused because another one has its value in a unique
// index.
type ConflictError struct {
	Table, Index, Value string
	Key                 string // of the row that has the value
}

// Error names the table, the index, the value and who has it.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("state: %s: %s %q is taken by %q", e.Table, e.Index, e.Value, e.Key)
}

// NewTable describes a table. The name stands in the journal: it must stay the same for
// ever. key returns a row's key, which must not be empty. Rows travel to the journal as
// JSON, so all that matters must be in exported fields, and strings must be valid UTF-8 to
// come back as they were; for keys and unique values Put insists on that.
func NewTable[T any](name string, key func(T) string, indexes ...Index[T]) *Table[T] {
	return &Table[T]{name: name, key: key, indexes: indexes}
}

// Get returns the row with the key, and whether there is one. It panics if the table was not
// given to Open, as all methods do.
func (t *Table[T]) Get(r Reader, key string) (T, bool) {
	if x := t.first(r.read().of(t.name), idIndex, []byte(key)); x != nil {
		return x.val, true
	}
	var zero T
	return zero, false
}

// All yields the rows in the order of their keys' bytes. Rows may be put and deleted
// meanwhile; the sequence goes on with those of the moment in which it began.
func (t *Table[T]) All(r Reader) iter.Seq[T] { return t.Prefix(r, "") }

// Prefix yields the rows whose keys begin with a prefix, as All does.
func (t *Table[T]) Prefix(r Reader, keyPrefix string) iter.Seq[T] {
	return t.scan(r, idIndex+"_prefix", []byte(keyPrefix))
}

// By yields the rows that have the value in the index, as All does. It panics if the table
// has no such index.
func (t *Table[T]) By(r Reader, index, value string) iter.Seq[T] {
	return t.scan(r, index, indexKey(value))
}

func (t *Table[T]) scan(r Reader, index string, from []byte) iter.Seq[T] {
	return func(yield func(T) bool) {
		it, err := r.read().of(t.name).Get(t.name, index, from)
		if err != nil {
			panic(fmt.Sprintf("state: table %q has no index %q", t.name, index))
		}
		for x := it.Next(); x != nil; x = it.Next() {
			if !yield(x.(*row[T]).val) {
				return
			}
		}
	}
}

func (t *Table[T]) first(txn *memdb.Txn, index string, key []byte) *row[T] {
	x, err := txn.First(t.name, index, key)
	if err != nil {
		panic(fmt.Sprintf("state: read table %q: %v", t.name, err))
	}
	found, _ := x.(*row[T])
	return found
}

// Put inserts the row, or replaces the one with its key. A *ConflictError says that a unique
// index forbids it; then, as with any error, nothing is changed and tx may go on. Indexes
// are checked at once: to swap two unique values, delete one row first.
func (t *Table[T]) Put(tx *Tx, val T) error {
	txn := tx.of(t.name)
	key := t.key(val)
	if key == "" {
		return fmt.Errorf("state: put into %s: the row has an empty key", t.name)
	}
	if err := t.lasting(key, val); err != nil {
		return err
	}
	var text []byte
	if tx.encode {
		var err error
		if text, err = json.Marshal(val); err != nil {
			return fmt.Errorf("state: put %q into %s: encode: %w", key, t.name, err)
		}
	}
	old := t.first(txn, idIndex, []byte(key))
	x := &row[T]{key: key, val: val}
	if err := t.insert(txn, x); err != nil {
		return err
	}
	c := Change{Table: t.name, Key: key, New: val}
	if old != nil {
		c.Old = old.val
	}
	tx.stage(c, text)
	return nil
}

// lasting holds that the key and the unique values come back from JSON as they are. Otherwise
// the journal would have a row that keeps the DB from being opened.
func (t *Table[T]) lasting(key string, val T) error {
	if !utf8.ValidString(key) {
		return fmt.Errorf("state: put into %s: the key %q is not valid UTF-8, so it could not be read again; encode it", t.name, key)
	}
	for _, ix := range t.indexes {
		if !ix.Unique {
			continue
		}
		for _, v := range ix.Keys(val) {
			if !utf8.ValidString(v) {
				return fmt.Errorf("state: put %q into %s: its %s %q is not valid UTF-8, so it could not be read again; encode it", key, t.name, ix.Name, v)
			}
		}
	}
	return nil
}

// Delete removes the row with the key and tells whether there was one.
func (t *Table[T]) Delete(tx *Tx, key string) bool {
	txn := tx.of(t.name)
	old := t.first(txn, idIndex, []byte(key))
	if old == nil {
		return false
	}
	if err := txn.Delete(t.name, old); err != nil {
		panic(fmt.Sprintf("state: delete %q of table %q: %v", key, t.name, err))
	}
	tx.stage(Change{Table: t.name, Key: key, Old: old.val}, nil)
	return true
}

func (t *Table[T]) tableName() string { return t.name }

// insert is Put without the journal: the radix database does not mind two rows with one
// unique value, so that is checked here.
func (t *Table[T]) insert(txn *memdb.Txn, r record) error {
	x := r.(*row[T])
	for _, ix := range t.indexes {
		if !ix.Unique {
			continue
		}
		for _, v := range ix.Keys(x.val) {
			if other := t.first(txn, ix.Name, indexKey(v)); other != nil && other.key != x.key {
				return &ConflictError{Table: t.name, Index: ix.Name, Value: v, Key: other.key}
			}
		}
	}
	if err := txn.Insert(t.name, x); err != nil {
		return fmt.Errorf("state: put %q into %s: %w", x.key, t.name, err)
	}
	return nil
}

func (t *Table[T]) decode(r Row) (record, error) {
	x := &row[T]{}
	if err := json.Unmarshal(r.Value, &x.val); err != nil {
		return nil, fmt.Errorf("row %q of table %s can't be read: %w", r.Key, t.name, err)
	}
	if x.key = t.key(x.val); x.key != r.Key {
		return nil, fmt.Errorf("row %q of table %s says that its key is %q; is all of the key in its JSON?", r.Key, t.name, x.key)
	}
	return x, nil
}

func (t *Table[T]) schema() (*memdb.TableSchema, error) {
	if t.name == "" || t.key == nil {
		return nil, fmt.Errorf("state: table %q needs a name and a key function", t.name)
	}
	s := emptySchema()
	s.Name = t.name
	for _, ix := range t.indexes {
		if _, ok := s.Indexes[ix.Name]; ok || ix.Name == "" || ix.Keys == nil {
			return nil, fmt.Errorf("state: table %s: index %q needs Keys and a name of its own (not %q)", t.name, ix.Name, idIndex)
		}
		s.Indexes[ix.Name] = &memdb.IndexSchema{
			Name: ix.Name, Unique: ix.Unique, AllowMissing: true, Indexer: valuesOf[T](ix.Keys),
		}
	}
	return s, nil
}

// idIndex is what the radix database calls the index of the keys.
const idIndex = "id"

func emptySchema() *memdb.TableSchema {
	return &memdb.TableSchema{Indexes: map[string]*memdb.IndexSchema{
		idIndex: {Name: idIndex, Unique: true, Indexer: byKey{}},
	}}
}

// byKey indexes rows by key, as it is: a row is only ever looked up exactly or by prefix.
type byKey struct{}

func (byKey) FromObject(x any) (bool, []byte, error)     { return true, []byte(x.(record).rowKey()), nil }
func (byKey) FromArgs(args ...any) ([]byte, error)       { return rawKey(args) }
func (byKey) PrefixFromArgs(args ...any) ([]byte, error) { return rawKey(args) }

// valuesOf indexes rows by the values that a function finds in them.
type valuesOf[T any] func(T) []string

func (f valuesOf[T]) FromArgs(args ...any) ([]byte, error) { return rawKey(args) }

func (f valuesOf[T]) FromObject(x any) (bool, [][]byte, error) {
	values := f(x.(*row[T]).val)
	if len(values) == 0 {
		return false, nil, nil
	}
	keys := make([][]byte, len(values))
	for i, v := range values {
		keys[i] = indexKey(v)
	}
	return true, keys, nil
}

func rawKey(args []any) ([]byte, error) {
	if len(args) == 1 {
		if b, ok := args[0].([]byte); ok {
			return b, nil
		}
	}
	return nil, errors.New("one key is needed")
}

// indexKey ends a value, so that no value is the beginning of another: in an index that is
// not unique the row's key follows. A zero byte inside is escaped; the order stays.
func indexKey(value string) []byte {
	b := make([]byte, 0, len(value)+2)
	for i := range len(value) {
		b = append(b, value[i])
		if value[i] == 0 {
			b = append(b, 0xff)
		}
	}
	b = append(b, 0, 1)
	return b[:len(b):len(b)]
}
