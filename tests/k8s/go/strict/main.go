// Command k8s-strict reads Kubernetes objects as YAML from standard input, decodes each into the type
// that the API has for it, and writes them to standard output as one JSON array.
//
// A field that the type does not have, a field given twice, a value of another type and a kind that
// the API does not know are errors: each object's are told, and the exit status is 1.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

func main() {
	objects, wrong := decode(os.Stdin)
	for _, err := range wrong {
		fmt.Fprintln(os.Stderr, err)
	}
	if len(wrong) > 0 {
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(objects); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// decode reads every document; none at all is an error too.
func decode(from io.Reader) ([]runtime.Object, []error) {
	codecs := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict)
	decoder := codecs.UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(from))
	var objects []runtime.Object
	var wrong []error
	for n := 1; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, append(wrong, fmt.Errorf("document %d: %w", n, err))
		}
		object, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("document %d (%v): %w", n, kind, err))
			continue
		}
		object.GetObjectKind().SetGroupVersionKind(*kind)
		objects = append(objects, object)
	}
	if len(objects)+len(wrong) == 0 {
		wrong = append(wrong, errors.New("there is no object"))
	}
	return objects, wrong
}
