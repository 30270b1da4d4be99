package state_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/dewpoint-go/dewpoint/state"
)

type instance struct {
	ID, App, Cell string
	Index         int
	Ports         []int
	Note          string
}

var instances = state.NewTable("instances", func(i instance) string { return i.ID },
	state.Index[instance]{Name: "app", Keys: func(i instance) []string { return []string{i.App} }},
	state.Index[instance]{Name: "cell", Keys: func(i instance) []string { return []string{i.Cell} }})

func makeInstance(i int) instance {
	return instance{
		ID: fmt.Sprintf("%08x-instance", i*7919), App: fmt.Sprintf("app-%d", i/10), Cell: fmt.Sprintf("cell-%d", i%5000),
		Index: i % 10, Ports: []int{8080, 2222}, Note: "a line of text that stands for what else is in a row",
	}
}

func fill(b *testing.B, n int) *state.Memory {
	m := state.NewMemory()
	db, err := state.Open(context.Background(), state.Config{Journal: m}, instances)
	if err != nil {
		b.Fatal(err)
	}
	for from := 0; from < n; from += 10_000 {
		err := db.Update(context.Background(), func(tx *state.Tx) error {
			for i := from; i < min(n, from+10_000); i++ {
				if err := instances.Put(tx, makeInstance(i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	return m
}

func BenchmarkUpdate64Callers(b *testing.B) {
	db, err := state.Open(context.Background(), state.Config{Journal: fill(b, 10_000)}, instances)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			x := makeInstance(i % 10_000)
			x.Cell = "moved"
			if err := db.Update(context.Background(), func(tx *state.Tx) error { return instances.Put(tx, x) }); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	db, err := state.Open(context.Background(), state.Config{Journal: fill(b, 100_000)}, instances)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, ok := instances.Get(db.View(), "00001eef-instance"); !ok {
				b.Fatal("gone")
			}
		}
	})
	b.Run("By10", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			for range instances.By(db.View(), "app", "app-77") {
				n++
			}
			if n != 10 {
				b.Fatal(n)
			}
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000, 250_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := fill(b, n)
			for b.Loop() {
				db, err := state.Open(context.Background(), state.Config{Journal: m}, instances)
				if err != nil {
					b.Fatal(err)
				}
				if err := db.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
