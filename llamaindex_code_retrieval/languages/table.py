"""The table of languages and text formats: how their files are recognised, parsed and documented."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType

from llamaindex_code_retrieval.languages.expressions import GROOVY, PROTOBUF, SQL, Pattern, R
from llamaindex_code_retrieval.languages.macros import C_MACROS, KOTLIN, OBJECTIVE_C

_SHEBANG = re.compile(r"#!\s*(?:\S*/)?env\s+(?:-\S+\s+|\w+=\S*\s+)*(?:\S*/)?([\w.+-]+)|#!\s*(?:\S*/)?([\w.+-]+)")
_VERSION = re.compile(r"[\d.]+$")


@dataclass(frozen=True, slots=True)
class Grammar:
    """The module and function that load a tree-sitter grammar; its query is ``queries/NAME.scm``.

    What the groups of ``blank`` match is replaced by spaces before parsing: macros that the grammar cannot know. A
    group with a name, which is shorter than what it matches, is replaced by its name.
    """

    module: str
    function: str = "language"
    blank: str = ""
    sign: str = ""
    """A regular expression for sources; without a match, it is tried only if it is the first of its language."""


@dataclass(frozen=True, slots=True)
class Language:
    """A row of the table: how files of a language are recognised, and what reads them.

    The grammar that parses a file with the fewest errors is used, or ``patterns``. A language without both is read as
    text.
    """

    extensions: tuple[str, ...] = ()
    """Without the dot, in lower case; an extension may contain dots."""
    file_names: tuple[str, ...] = ()
    """Names of files, as they are written; ``*`` at the end stands for any characters."""
    shebangs: tuple[str, ...] = ()
    """Programs in a ``#!`` line, without their version."""
    grammars: tuple[str, ...] = ()
    """Names in ``GRAMMARS``."""
    patterns: tuple[Pattern, ...] = ()
    comments: str = "c"
    """How doc comments are written: a name in ``docstrings.COMMENT_STYLES``."""
    scripts: bool = False
    """Whether the code stands in ``<script>`` elements."""
    divided_by: str = "definitions"
    """At what its files are divided into nodes."""


def _row(
    extensions: str,
    *,
    files: str = "",
    shebangs: str = "",
    grammars: str = "",
    patterns: tuple[Pattern, ...] = (),
    comments: str = "c",
    scripts: bool = False,
    divided_by: str = "definitions",
) -> Language:
    return Language(
        extensions=tuple(extensions.split()),
        file_names=tuple(files.split()),
        shebangs=tuple(shebangs.split()),
        grammars=tuple(grammars.split()),
        patterns=patterns,
        comments=comments,
        scripts=scripts,
        divided_by=divided_by,
    )


# `__global__`, and `<<<grid, block>>>` in calls
_CUDA = (
    r"\b(__(?:global|device|host|forceinline|noinline|launch_bounds|shared|constant|managed|restrict|grid_constant)__"
    r"(?:\([^()\n]*\))?)|(<<<[^;{}]*?>>>)"
)
# lines of the preprocessor of OCaml
_CPPO = (
    r"^[ \t]*(#[ \t]*(?:if|ifdef|ifndef|elif|else|endif|define|undef|include|ext|endext|error|warning)\b"
    r"(?:[^\n]*\\\n)*[^\n]*)"
)

# `export type * from "…"`, and `typeof import("…")`, of which the string is left as a type
_TYPESCRIPT_BLANK = r"\bexport\s+(type)\s+\*|\b(typeof\s+import\s*\()\s*(?:'[^'\n]*'|\"[^\"\n]*\")\s*(\)(?:\.\w+)*)"

GRAMMARS: Mapping[str, Grammar] = MappingProxyType(
    {
        "python": Grammar("tree_sitter_python"),
        "starlark": Grammar("tree_sitter_python"),
        "java": Grammar("tree_sitter_java"),
        "javascript": Grammar("tree_sitter_javascript"),
        "typescript": Grammar("tree_sitter_typescript", "language_typescript", _TYPESCRIPT_BLANK),
        "tsx": Grammar("tree_sitter_typescript", "language_tsx", _TYPESCRIPT_BLANK),
        # `new(int64(1))`, of a value instead of a type, is parsed as a call of another function
        "go": Grammar(
            "tree_sitter_go",
            blank=r"\bne(w)\((?=[-\"`\d!&]|(?!(?:struct|func|interface|map|chan)\b)[\w.]+(?:[({]|\[\w+\]\.|\s*[-+*/%|&]))",
        ),
        "php": Grammar("tree_sitter_php", "language_php"),
        "ruby": Grammar("tree_sitter_ruby"),
        "rust": Grammar("tree_sitter_rust"),
        "zig": Grammar("tree_sitter_zig"),
        # of hsc2hs: `#{peek point, x}`, `(#peek point, x)` and `#type int`
        "haskell": Grammar(
            "tree_sitter_haskell",
            blank=r"(#\{)[^{},\n]*(?:(,)[^{},\n]*)?(\})|\((#)\w[^(),\n]*(?:(,)[^()\n]*)?\)|(#type)\b",
        ),
        "ocaml": Grammar("tree_sitter_ocaml", "language_ocaml", blank=_CPPO),
        "ocaml_interface": Grammar("tree_sitter_ocaml", "language_ocaml_interface", blank=_CPPO),
        "c": Grammar("tree_sitter_c", blank=C_MACROS),
        "cpp": Grammar("tree_sitter_cpp", blank=C_MACROS),
        "cuda": Grammar("tree_sitter_cpp", blank=rf"{C_MACROS}|{_CUDA}"),
        "csharp": Grammar("tree_sitter_c_sharp"),
        "kotlin": Grammar("tree_sitter_kotlin", blank=KOTLIN),
        "objc": Grammar("tree_sitter_objc", blank=OBJECTIVE_C, sign=r"(?m)^[ \t]*(?:@[a-z]+|#[ \t]*import)\b"),
        "swift": Grammar("tree_sitter_swift"),
        "scala": Grammar("tree_sitter_scala"),
        "solidity": Grammar("tree_sitter_solidity"),
        "julia": Grammar("tree_sitter_julia"),
        "elixir": Grammar("tree_sitter_elixir"),
        "dart": Grammar("tree_sitter_dart"),
        "graphql": Grammar("tree_sitter_graphql"),
        "perl": Grammar("tree_sitter_perl"),
        # `: base(…)` of a constructor, `$folder/file` and `"^a$"`
        "powershell": Grammar(
            "tree_sitter_powershell",
            blank=r"\)\s*(:\s*base\s*\([^()\n]*\))(?=\s*\{)|(?<=[\s(\"])\$\w+((?:[\\/][\w.*-]+)+)|(\$)\"(?=[\s,)}])",
        ),
        "hcl": Grammar("tree_sitter_hcl"),
        "lua": Grammar("tree_sitter_lua"),
        # `4<> file`, `> file <<< text` and `${name%%]*}`
        "bash": Grammar(
            "tree_sitter_bash", blank=r"\d<(>)|>[ \t]*[^\s<>|;&()]+[ \t]+(<<<)|\$\{\w+(?:%%?|##?)(\][^}\n]{0,40})\}"
        ),
    }
)

LANGUAGES: Mapping[str, Language] = MappingProxyType(
    {
        # programming languages
        "python": _row(
            "py pyi pyw",
            files="SConstruct SConscript",
            shebangs="python pypy uv",
            grammars="python",
            comments="docstring",
        ),
        "java": _row("java", grammars="java"),
        "javascript": _row("js mjs cjs jsx", files="Jakefile", shebangs="node", grammars="javascript tsx"),
        "typescript": _row("ts mts cts tsx", shebangs="deno bun ts-node tsx", grammars="typescript tsx"),
        "vue": _row("vue", grammars="typescript tsx javascript", scripts=True),
        "svelte": _row("svelte", grammars="typescript tsx javascript", scripts=True),
        "html": _row(
            "html htm xhtml shtml astro blade.php ejs handlebars hbs jinja jinja2 liquid mustache njk twig",
            grammars="javascript tsx",
            scripts=True,
            divided_by="headings, elements and definitions",
        ),
        "go": _row("go", grammars="go"),
        "php": _row("php phtml", shebangs="php", grammars="php"),
        "ruby": _row(
            "rb rake gemspec ru podspec",
            files="Rakefile Gemfile Guardfile Vagrantfile Podfile Fastfile Brewfile Capfile",
            shebangs="ruby jruby",
            grammars="ruby",
            comments="hash",
        ),
        "rust": _row("rs", grammars="rust"),
        "zig": _row("zig", grammars="zig"),
        "haskell": _row("hs hsc hs-boot", shebangs="runhaskell runghc stack", grammars="haskell", comments="dash"),
        "ocaml": _row("ml mli", shebangs="ocaml ocamlscript", grammars="ocaml ocaml_interface", comments="ml"),
        "c": _row("c h", grammars="c cpp objc"),  # a .h may be C++ or Objective-C
        "cpp": _row("cc cpp cxx c++ cppm ixx hpp hh hxx h++ ipp inl tpp txx ino", grammars="cpp"),
        "cuda": _row("cu cuh", grammars="cuda"),
        "csharp": _row("cs csx cake", grammars="csharp", comments="xml"),
        "hcl": _row("tf tfvars hcl tofu nomad", grammars="hcl"),
        "dart": _row("dart", shebangs="dart", grammars="dart"),
        "graphql": _row("graphql gql graphqls", grammars="graphql", comments="description"),
        "protobuf": _row("proto", patterns=PROTOBUF),
        "sql": _row("sql psql pgsql ddl plsql pks pkb tsql", patterns=SQL, comments="sql"),
        "r": _row("r rprofile", files=".Rprofile", shebangs="Rscript r littler", patterns=R, comments="hash"),
        "lua": _row(
            "lua rockspec", files=".luacheckrc .busted", shebangs="lua luajit", grammars="lua", comments="dash"
        ),
        "groovy": _row("groovy gradle gvy", files="Jenkinsfile Jenkinsfile.*", shebangs="groovy", patterns=GROOVY),
        "bash": _row(
            "sh bash zsh ksh bats ebuild eclass",
            files=".bashrc .bash_profile .bash_login .bash_logout .bash_aliases .profile .zshrc .zshenv .zprofile "
            ".zlogin .kshrc .envrc .xinitrc PKGBUILD APKBUILD",
            shebangs="sh bash dash zsh ksh mksh ash bats",
            grammars="bash",
            comments="hash",
        ),
        "perl": _row(
            "pl pm t psgi",
            files="cpanfile Makefile.PL Build.PL",
            shebangs="perl",
            grammars="perl",
            comments="pod",
        ),
        "powershell": _row("ps1 psm1 psd1", shebangs="pwsh powershell", grammars="powershell", comments="powershell"),
        "kotlin": _row("kt kts", shebangs="kotlin", grammars="kotlin"),
        "objectivec": _row("m mm", grammars="objc cpp"),
        "swift": _row("swift", shebangs="swift", grammars="swift"),
        "scala": _row("scala sc sbt", shebangs="scala scala-cli", grammars="scala"),
        "solidity": _row("sol", grammars="solidity"),
        "julia": _row("jl", shebangs="julia", grammars="julia", comments="julia"),
        "elixir": _row("ex exs", shebangs="elixir", grammars="elixir", comments="hash"),
        "starlark": _row(
            "bzl bazel star starlark",
            files="BUILD WORKSPACE BUCK Tiltfile",
            grammars="starlark",
            comments="docstring",
        ),
        # documents
        "markdown": _row("md markdown mdx mkd mdown qmd rmd mdc svx", divided_by="headings"),
        "restructuredtext": _row("rst rest", divided_by="headings"),
        "asciidoc": _row("adoc asciidoc", divided_by="headings"),
        "latex": _row("tex ltx", divided_by="headings"),
        "org": _row("org", divided_by="headings"),
        "pod": _row("pod", divided_by="headings"),
        "notebook": _row("ipynb", divided_by="cells and definitions"),
        "text": _row(
            "txt text patch diff",
            files="README LICENSE LICENCE COPYING NOTICE AUTHORS CONTRIBUTORS MAINTAINERS OWNERS CODEOWNERS CHANGES "
            "Changes CHANGELOG ChangeLog NEWS HISTORY INSTALL TODO VERSION .gitignore .gitattributes .gitkeep .keep "
            ".mailmap .git-blame-ignore-revs .dockerignore .npmignore .eslintignore .prettierignore .ignore .nvmrc "
            ".python-version .ruby-version .node-version .tool-versions .nojekyll",
            divided_by="headings, paragraphs or windows",
        ),
        # configuration and markup
        "yaml": _row("yaml yml cff", files=".clang-format .clang-tidy", divided_by="keys"),
        "toml": _row("toml", files="Pipfile", divided_by="keys"),
        "json": _row(
            "json jsonc json5 webmanifest code-workspace",
            files=".babelrc .eslintrc .prettierrc .stylelintrc .swcrc .jshintrc .watchmanconfig",
            divided_by="keys",
        ),
        "ini": _row(
            "ini cfg conf properties editorconfig env service socket timer desktop",
            files=".gitconfig .gitmodules .npmrc .flake8 .pylintrc .coveragerc .env .env.*",
            divided_by="keys",
        ),
        "xml": _row(
            "xml xsd xsl xslt wsdl csproj vbproj fsproj vcxproj nuspec props targets plist resx xaml storyboard xib "
            "xcscheme",
            divided_by="elements",
        ),
        "css": _row("css scss sass less", divided_by="rules"),
        "dockerfile": _row("dockerfile", files="Dockerfile Dockerfile.* Containerfile", divided_by="stages"),
        "makefile": _row(
            "mk mak make", files="Makefile makefile GNUmakefile Makefile.* justfile Justfile", divided_by="targets"
        ),
        "cmake": _row("cmake", files="CMakeLists.txt", divided_by="functions and paragraphs"),
    }
)
CODE_LANGUAGES = tuple(name for name, language in LANGUAGES.items() if language.grammars or language.patterns)
"""The languages in which definitions are found."""

_BY_EXTENSION = {extension: name for name, language in LANGUAGES.items() for extension in language.extensions}
_BY_SHEBANG = {program: name for name, language in LANGUAGES.items() for program in language.shebangs}
_BY_FILE_NAME = {file: name for name, language in LANGUAGES.items() for file in language.file_names}
_BY_PREFIX = {file[:-1]: name for file, name in _BY_FILE_NAME.items() if file.endswith("*")}


def language_of(path: str | PurePath) -> str | None:
    """Return the language of a file by its name or extension, or ``None`` if the table does not have it.

    >>> language_of("src/Main.java"), language_of("include/list.h"), language_of("Rakefile"), language_of("a.unknown")
    ('java', 'c', 'ruby', None)
    """
    name = PurePath(path).name
    if name in _BY_FILE_NAME:
        return _BY_FILE_NAME[name]
    for prefix, language in _BY_PREFIX.items():
        if name.startswith(prefix):
            return language
    extension = name.lower()
    while "." in extension:  # the longest known extension: that of `a.b.c` may be `b.c`
        extension = extension.partition(".")[2]
        if extension in _BY_EXTENSION:
            return _BY_EXTENSION[extension]
    return None


def language_of_text(path: str | PurePath, text: str) -> str | None:
    """Return the language of a file by its name, else by the ``#!`` line of its text, or ``None``.

    >>> language_of_text("bin/tool", "#!/usr/bin/env python3\\n"), language_of_text("notes", "Hello")
    ('python', None)
    """
    language = language_of(path)
    if language is None and text.startswith("#!") and (match := _SHEBANG.match(text)):
        return _BY_SHEBANG.get(_VERSION.sub("", match[1] or match[2]))
    return language


def known_language(language: str) -> str:
    """Return ``language``; raise a ``ValueError`` that lists ``LANGUAGES`` if it is not one of them."""
    if language not in LANGUAGES:
        raise ValueError(f"unknown language {language!r}; known are {', '.join(LANGUAGES)}")
    return language
