(function_definition type: (_) declarator: (_) @declarator body: (_)) @function
(preproc_function_def name: (_) @name) @function
[(translation_unit (declaration declarator: (_) @declarator) @prototype)
  (declaration_list (declaration declarator: (_) @declarator) @prototype)
  (linkage_specification body: (declaration declarator: (_) @declarator) @prototype)
  (preproc_if (declaration declarator: (_) @declarator) @prototype)
  (preproc_ifdef (declaration declarator: (_) @declarator) @prototype)
  (preproc_elif (declaration declarator: (_) @declarator) @prototype)
  (preproc_else (declaration declarator: (_) @declarator) @prototype)]

[(struct_specifier name: (_) @name body: (_)) (union_specifier name: (_) @name body: (_))
  (enum_specifier name: (_) @name body: (_))] @class
; the name of a typedef is used more than the tag of its structure
(type_definition
  type: [(struct_specifier body: (_)) (union_specifier body: (_)) (enum_specifier body: (_))] @class @inner
  . declarator: [(type_identifier) @name (array_declarator declarator: (type_identifier) @name)]) @outer
(type_definition
  type: [(struct_specifier !name body: (_)) (union_specifier !name body: (_)) (enum_specifier !name body: (_))]
    @class @inner
  . declarator: (pointer_declarator declarator: (type_identifier) @name)) @outer
(type_definition type: (_) @_type
  . declarator: [(type_identifier) @name (_ declarator: (type_identifier) @name)
    (_ declarator: (_ declarator: (type_identifier) @name))
    (_ declarator: (parenthesized_declarator (_ declarator: (type_identifier) @name)))]
  (#not-match? @_type "[{]")) @alias

; macros that define functions: `TEST_CASE("name", "[tags]") {`, `TEST(Suite, Name) {`, `SYSCALL_DEFINE1(name, …) {`
((expression_statement (call_expression function: (identifier) @call
    arguments: (argument_list . [(string_literal) @label (binary_expression left: (string_literal) @label)]))) @outer
  . (compound_statement) @function @inner
  (#match? @call "^[A-Z][A-Z0-9_]{2,}$"))
((expression_statement (call_expression function: (identifier) @_macro
    arguments: (argument_list . (identifier) @name))) @outer
  . (compound_statement) @function @inner
  (#set! level "module")
  (#match? @_macro "^[A-Z][A-Z0-9_]{2,}$"))
; `MACRO(name) {` is read as a declarator in brackets
(function_definition type: (type_identifier) @_macro declarator: (parenthesized_declarator (identifier) @name)
  (#set! level "module")
  (#match? @_macro "^[A-Z][A-Z0-9_]{2,}$")) @function

(comment) @comment
