"""The table of languages: file extensions, tree-sitter grammars and the queries that find definitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Grammar:
    """The module and function that load a tree-sitter grammar, and the query that finds the definitions in a source.

    The query captures ``@function`` (a method if directly in a class), ``@method``, ``@class`` and ``@scope`` (only
    adds its name to the scopes inside it), each with its ``@name`` and, where there is one, ``@owner`` or in C
    ``@declarator``. ``@comment`` and ``@attribute`` belong to the definition that follows them. A definition that is
    the ``@inner`` of an ``@outer`` node starts where that node starts. Functions without a body are not captured.
    """

    module: str
    function: str
    query: str


def _named(kind: str, types: str) -> str:
    return "".join(f"({type_} name: (_) @name) @{kind}\n" for type_ in types.split())


_C_QUERY = """
(function_definition declarator: (_) @declarator body: (_)) @function
([(struct_specifier name: (_) @name body: (_)) (union_specifier name: (_) @name body: (_))
  (enum_specifier name: (_) @name body: (_))]) @class
(type_definition type: [(struct_specifier !name body: (_)) (union_specifier !name body: (_))
  (enum_specifier !name body: (_))] declarator: (type_identifier) @name) @class
(comment) @comment
"""
_CPP_QUERY = """
(class_specifier name: (_) @name body: (_)) @class
(template_declaration (_) @inner) @outer
"""
_JS_QUERY = (
    _named("function", "function_declaration generator_function_declaration")
    + """
(class_declaration name: (_) @name) @class
(method_definition name: (_) @name) @method
(variable_declarator name: (identifier) @name
  value: [(arrow_function) (function_expression) (generator_function)]) @function
(variable_declarator name: (identifier) @name value: (class)) @class
(assignment_expression left: [(identifier) (member_expression)] @name
  right: [(arrow_function) (function_expression) (generator_function)]) @function
(assignment_expression left: [(identifier) (member_expression)] @name right: (class)) @class
(pair key: (_) @name value: [(arrow_function) (function_expression) (generator_function)]) @method
(export_statement "default" @name value: [(arrow_function) (function_expression)]) @function
(export_statement "default" @name value: (class)) @class
(comment) @comment
(decorator) @attribute
"""
)
_TS_QUERY = (
    _JS_QUERY
    + _named("class", "abstract_class_declaration interface_declaration enum_declaration type_alias_declaration")
    + _named("scope", "internal_module module")
    + "(public_field_definition name: (_) @name value: [(arrow_function) (function_expression)]) @method"
)
_PYTHON_QUERY = """
(function_definition name: (_) @name) @function
(class_definition name: (_) @name) @class
(decorated_definition definition: (_) @inner) @outer
(comment) @comment
"""
_JAVA_QUERY = (
    _named("class", "class_declaration interface_declaration enum_declaration record_declaration")
    + _named("class", "annotation_type_declaration")
    + _named("method", "constructor_declaration compact_constructor_declaration")
    + "(method_declaration name: (_) @name body: (_)) @method [(line_comment) (block_comment)] @comment"
)
_GO_QUERY = """
(function_declaration name: (_) @name body: (_)) @function
(method_declaration receiver: (parameter_list (parameter_declaration type: (_) @owner))
  name: (_) @name body: (_)) @method
(type_spec name: (_) @name) @class
(type_alias name: (_) @name) @class
(var_spec name: (_) @name value: (expression_list . (func_literal) .)) @function
(comment) @comment
"""
_PHP_QUERY = (
    _named("class", "class_declaration interface_declaration trait_declaration enum_declaration")
    + _named("function", "function_definition")
    + "(method_declaration name: (_) @name body: (_)) @method (comment) @comment"
)
_RUBY_QUERY = _named("function", "method singleton_method") + _named("class", "class module") + "(comment) @comment"
_RUST_QUERY = (
    _named("class", "trait_item struct_item enum_item union_item")
    + """
(function_item name: (_) @name) @function
(impl_item type: (_) @owner) @class
(mod_item name: (_) @name body: (_)) @scope
[(line_comment) (block_comment)] @comment
(attribute_item) @attribute
"""
)
_CSHARP_QUERY = (
    _named("class", "class_declaration struct_declaration record_declaration interface_declaration enum_declaration")
    + _named("method", "constructor_declaration")
    + _named("function", "local_function_statement")
    + """
(method_declaration name: (_) @name body: (_)) @method
(destructor_declaration "~" @owner name: (_) @name) @method
(operator_declaration operator: _ @name) @method
(comment) @comment
"""
)
GRAMMARS: Mapping[str, Grammar] = {
    "python": Grammar("tree_sitter_python", "language", _PYTHON_QUERY),
    "java": Grammar("tree_sitter_java", "language", _JAVA_QUERY),
    "javascript": Grammar(
        "tree_sitter_javascript",
        "language",
        _JS_QUERY + "(field_definition property: (_) @name value: [(arrow_function) (function_expression)]) @method",
    ),
    "typescript": Grammar("tree_sitter_typescript", "language_typescript", _TS_QUERY),
    "tsx": Grammar("tree_sitter_typescript", "language_tsx", _TS_QUERY),
    "go": Grammar("tree_sitter_go", "language", _GO_QUERY),
    "php": Grammar("tree_sitter_php", "language_php", _PHP_QUERY),
    "ruby": Grammar("tree_sitter_ruby", "language", _RUBY_QUERY),
    "rust": Grammar("tree_sitter_rust", "language", _RUST_QUERY),
    "c": Grammar("tree_sitter_c", "language", _C_QUERY),
    "cpp": Grammar("tree_sitter_cpp", "language", _C_QUERY + _CPP_QUERY),
    "csharp": Grammar("tree_sitter_c_sharp", "language", _CSHARP_QUERY),
}


@dataclass(frozen=True, slots=True)
class Language:
    """File extensions and grammars of a language; the grammar that parses a file with the fewest errors is used."""

    extensions: tuple[str, ...]
    grammars: tuple[str, ...]


LANGUAGES: Mapping[str, Language] = MappingProxyType(
    {
        "python": Language(("py", "pyi", "pyw"), ("python",)),
        "java": Language(("java",), ("java",)),
        "javascript": Language(("js", "mjs", "cjs", "jsx"), ("javascript",)),
        "typescript": Language(("ts", "mts", "cts", "tsx"), ("typescript", "tsx")),
        "go": Language(("go",), ("go",)),
        "php": Language(("php", "phtml"), ("php",)),
        "ruby": Language(("rb", "rake", "gemspec"), ("ruby",)),
        "rust": Language(("rs",), ("rust",)),
        "c": Language(("c", "h"), ("c", "cpp")),  # a .h may be C++
        "cpp": Language(("cc", "cpp", "cxx", "c++", "hpp", "hh", "hxx", "h++", "ipp", "inl", "tpp"), ("cpp",)),
        "csharp": Language(("cs", "csx"), ("csharp",)),
    }
)
_BY_EXTENSION = {extension: name for name, language in LANGUAGES.items() for extension in language.extensions}


def language_of(path: str | PurePath) -> str | None:
    """Return the language of a file by its extension, or ``None`` if it is not one of ``LANGUAGES``.

    >>> language_of("src/Main.java"), language_of("include/list.h"), language_of("README.md")
    ('java', 'c', None)
    """
    return _BY_EXTENSION.get(PurePath(path).suffix[1:].lower())


def known_language(language: str) -> str:
    """Return ``language``; raise a ``ValueError`` that lists ``LANGUAGES`` if it is not one of them."""
    if language not in LANGUAGES:
        raise ValueError(f"unknown language {language!r}; known are {', '.join(LANGUAGES)}")
    return language
