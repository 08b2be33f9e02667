"""What the Go source of the Kubernetes API says about its types and OpenAPI does not: how each field travels.

Read are struct declarations with their tags, named scalars, lists and maps, aliases, and the names of groups. Nothing
is executed.
"""
import dataclasses
import pathlib
import re

SCALARS = {"string": "string", "bool": "bool", "int32": "int32", "int64": "int64", "int": "int64",
           "uint32": "int32", "float64": "double"}
RUNTIME = "k8s.io/apimachinery/pkg/runtime"
META = "k8s.io/apimachinery/pkg/apis/meta/v1"


@dataclasses.dataclass
class Field:
    """A field of a struct as JSON has it: fields of embedded structs count as the embedding struct's own."""
    name: str
    type: tuple
    numbers: tuple
    pointer: bool
    omitempty: bool
    omitzero: bool
    patch: dict


@dataclasses.dataclass
class Package:
    path: str
    group: str = None
    structs: dict = dataclasses.field(default_factory=dict)
    named: dict = dataclasses.field(default_factory=dict)
    wrapped: set = dataclasses.field(default_factory=set)
    enums: set = dataclasses.field(default_factory=set)
    values: dict = dataclasses.field(default_factory=dict)
    aliases: dict = dataclasses.field(default_factory=dict)


def split_type(text, imports, package):
    """Go's type expression as a tuple: (ptr|list, T), (map, T), (name, package, N), (scalar, word) or (any,)."""
    if text.startswith("*"):
        return ("ptr", split_type(text[1:], imports, package))
    if text == "[]byte":
        return ("scalar", "bytes")
    if text.startswith("[]"):
        return ("list", split_type(text[2:], imports, package))
    if text.startswith("map["):
        return ("map", split_type(text[text.index("]") + 1:], imports, package))
    if text in SCALARS:
        return ("scalar", SCALARS[text])
    if text in ("interface{}", "any"):
        return ("any",)
    if "." in text:
        owner, name = text.split(".")
        return ("name", imports.get(owner, owner), name)
    return ("name", package, text)


class Source:
    """The Go packages of a folder that holds `api/`, `apimachinery/` and so on."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.packages = {}

    def package(self, path):
        if path not in self.packages:
            self.packages[path] = self.read(path)
        return self.packages[path]

    def read(self, path):
        package = Package(path)
        folder = self.root / path.removeprefix("k8s.io/")
        for file in sorted(folder.glob("*.go")) if folder.is_dir() else []:
            if file.name.endswith("_test.go") or file.name.startswith(("zz_", "generated")):
                continue
            text = re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.S)
            for comment, name in re.findall(r"((?:^//.*\n)+)\n?(?:^//.*\n)*type (\w+) ", text, re.M):
                if "+protobuf.nullable=true" in comment:
                    package.wrapped.add(name)
                if re.search(r"^// *\+enum$", comment, re.M):
                    package.enums.add(name)
            group = re.search(r'GroupName\s*=\s*"([^"]*)"', text)
            package.group = group.group(1) if group else package.group
            imports = {(alias or full.rsplit("/", 1)[1]): full
                       for alias, full in re.findall(r'^\s*(?:import )?(\w+ )?"([\w./-]+/[\w./-]+)"$', text, re.M)
                       for alias in [alias.strip()]}
            for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S):
                package.structs[name] = self.fields(body, imports, path)
            for name in re.findall(r"^type (\w+) struct ?\{ ?\}", text, re.M):
                package.structs[name] = []
            for name, kind in re.findall(r"^type (\w+) ([\w\[\].*]+)$", text, re.M):
                package.named[name] = split_type(kind, imports, path)
            for name, kind in re.findall(r"^type (\w+) = ([\w.]+)$", text, re.M):
                package.aliases[name] = split_type(kind, imports, path)
            for constant, name, value in re.findall(r'^\s*(?:const )?(\w+)\s+(\w+)\s+= "([^"]*)"', text, re.M):
                package.values.setdefault(name, {})[constant] = value
            for constant, name, value in re.findall(r'^\s*(\w+)\s+= (\w+)\("([^"]*)"\)', text, re.M):
                package.values.setdefault(name, {})[constant] = value
            for constant, name, owner, other in re.findall(r"^\s*(\w+)\s+= (\w+)\((\w+)\.(\w+)\)", text, re.M):
                if owner in imports and name in package.enums:
                    values = self.package(imports[owner]).values.values()
                    value = next(names[other] for names in values if other in names)
                    package.values.setdefault(name, {})[constant] = value
        return package

    @staticmethod
    def fields(body, imports, package):
        found = []
        for line in body.splitlines():
            line = line.strip()
            match = re.match(r"^(?:(\w+)\s+)?([\w.*\[\]{}]+)\s+`(.*)`", line)
            if not match or line.startswith("//"):
                continue
            tags = dict(re.findall(r'(\w+):"([^"]*)"', match.group(3)))
            number = re.match(r"\w+,(\d+)", tags.get("protobuf", ""))
            found.append((split_type(match.group(2), imports, package), tags, number and int(number.group(1))))
        return found

    def resolve(self, kind):
        """Follows aliases and names of scalars, lists and maps; structs keep their name."""
        while kind[0] == "name":
            package = self.package(kind[1])
            following = package.aliases.get(kind[2]) or package.named.get(kind[2])
            if following is None:
                break
            kind = following
        return kind

    def enum(self, kind):
        """The values of a string, or of the elements of a list or map, if its type is said to be an enumeration."""
        while kind[0] != "name" and len(kind) == 2 and isinstance(kind[1], tuple):
            kind = kind[1]
        if kind[0] != "name":
            return None
        package = self.package(kind[1])
        if kind[2] in package.enums and kind[2] in package.values:
            return set(package.values[kind[2]].values())
        following = package.aliases.get(kind[2]) or package.named.get(kind[2])
        return self.enum(following) if following else None

    def is_wrapped(self, kind):
        """Whether a list is a message of its own on the wire, so that none differs from an empty one."""
        return kind[0] == "name" and kind[2] in self.package(kind[1]).wrapped

    def flat(self, path, name, numbers=()):
        """The fields of a struct, those of embedded structs included."""
        kind = self.resolve(("name", path, name))
        path, name = kind[1:] if kind[0] == "name" else (path, name)
        for kind, tags, number in self.package(path).structs.get(name, []):
            words = tags.get("json", "").split(",")
            below = numbers + ((number,) if number else ())
            if "inline" in words:
                for field in self.flat(kind[1], kind[2], below):
                    yield field if number else dataclasses.replace(field, numbers=())
            elif words[0] and words[0] != "-":
                bare = kind[1] if kind[0] == "ptr" else kind
                patch = {k: tags[k] for k in ("patchStrategy", "patchMergeKey") if k in tags}
                yield Field(words[0], bare, below if number else (), kind[0] == "ptr", "omitempty" in words,
                            "omitzero" in words, patch)

    def is_kind(self, path, name):
        """Whether objects of a struct say their kind."""
        return any(kind[0] == "name" and kind[2] == "TypeMeta" for kind, tags, _ in self.package(path).structs[name]
                   if "inline" in tags.get("json", ""))

    def api_packages(self):
        """The packages whose types travel."""
        folders = [*self.root.glob("api/*/v*"), *self.root.glob("apimachinery/pkg/apis/meta/v*"),
                   *self.root.glob("apiextensions-apiserver/pkg/apis/apiextensions/v*"),
                   *self.root.glob("kube-aggregator/pkg/apis/apiregistration/v*")]
        return ["k8s.io/" + str(folder.relative_to(self.root)) for folder in sorted(folders)
                if (folder / "generated.proto").exists()]
