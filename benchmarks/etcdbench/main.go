// etcdbench: closed-loop put/get load on etcd through its own Go client; prints throughput and latency percentiles.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/clientv3"
)

func main() {
	eps := flag.String("endpoints", "127.0.0.1:2379", "host:port[,...]")
	n := flag.Int("n", 20000, "requests at most")
	limit := flag.Float64("T", 0, "seconds at most; 0: no limit")
	c := flag.Int("c", 50, "clients")
	conns := flag.Int("conns", 10, "connections that the clients share")
	d := flag.Int("d", 64, "bytes of a value")
	op := flag.String("op", "put", "put|get|fill (put each key once, in order)")
	kr := flag.Int("r", 100000, "different keys")
	flag.Parse()
	if *op == "fill" {
		*n = *kr
	}
	val := strings.Repeat("x", *d)
	cl := make([]*clientv3.Client, *conns)
	for i := range cl {
		x, e := clientv3.New(clientv3.Config{Endpoints: strings.Split(*eps, ","), DialTimeout: 5 * time.Second})
		if e != nil {
			panic(e)
		}
		cl[i] = x
	}
	var done, errs int64
	lats := make([][]float64, *c)
	var wg sync.WaitGroup
	t0 := time.Now()
	for i := 0; i < *c; i++ {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			r := rand.New(rand.NewSource(int64(i)))
			k := cl[i%len(cl)]
			for {
				turn := atomic.AddInt64(&done, 1)
				if turn > int64(*n) || (*limit > 0 && time.Since(t0).Seconds() > *limit) {
					return
				}
				at := r.Intn(*kr)
				if *op == "fill" {
					at = int(turn) - 1
				}
				key := fmt.Sprintf("key:%012d", at)
				s := time.Now()
				var e error
				if *op == "get" {
					_, e = k.Get(context.Background(), key)
				} else {
					_, e = k.Put(context.Background(), key, val)
				}
				if e != nil {
					atomic.AddInt64(&errs, 1)
				}
				lats[i] = append(lats[i], float64(time.Since(s).Microseconds())/1000)
			}
		}(i)
	}
	wg.Wait()
	el := time.Since(t0).Seconds()
	var all []float64
	for _, l := range lats {
		all = append(all, l...)
	}
	if len(all) == 0 {
		panic("no request was made")
	}
	sort.Float64s(all)
	fmt.Printf("%s c=%d %.0f/s p50=%.3f p99=%.3f ms errs=%d\n", *op, *c, float64(len(all))/el, all[len(all)/2], all[len(all)*99/100], errs)
}
