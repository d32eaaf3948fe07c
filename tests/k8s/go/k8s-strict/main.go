// Command k8s-strict reads Kubernetes objects as YAML from a file, decodes each into the type
// that the API has for it, and writes them to standard output as one JSON array.
//
// A field that the type does not have, a field given twice, a value of another type and a kind that
// the API does not know are errors: each object's are told, and the exit status is 1.
//
//	k8s-strict FILE
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
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 1 {
		return errors.New("give one file: k8s-strict FILE")
	}
	file, err := os.Open(arguments[0])
	if err != nil {
		return err
	}
	defer file.Close()
	objects, wrong := decode(file)
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	return json.NewEncoder(os.Stdout).Encode(objects)
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
