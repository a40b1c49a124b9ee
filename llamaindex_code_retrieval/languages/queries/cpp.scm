; inherits: c

; constructors, destructors and conversions; in functions it is a macro that is a loop
(function_definition !type declarator: (_) @declarator body: (_)
  (#set! level "module")) @function
[(field_declaration declarator: (_) @declarator) @prototype
  (field_declaration_list (declaration declarator: (_) @declarator) @prototype
    (#not-match? @declarator "^[A-Z]+_[A-Z0-9_]*\\(")) ; a macro
  (template_declaration (declaration declarator: (_) @declarator) @prototype)
  (function_definition declarator: (_) @declarator [(default_method_clause) (delete_method_clause)]) @prototype]
; a function in a variable
(declaration declarator: (init_declarator declarator: (identifier) @name value: (lambda_expression))) @function
(field_declaration declarator: (field_identifier) @name default_value: (lambda_expression)) @function

(class_specifier name: (_) @name body: (_)) @class
(concept_definition name: (_) @name) @class
(alias_declaration name: (_) @name) @alias
(template_declaration (_) @inner) @outer

; tests in macros, which are as functions without a type: after those, so that they count
(function_definition !type declarator: (function_declarator declarator: (identifier) @_macro
  parameters: (parameter_list . (parameter_declaration type: (type_identifier) @name !declarator) .))
  (#set! level "module")
  (#match? @_macro "^[A-Z][A-Z0-9_]{2,}$")) @function
(function_definition !type declarator: (function_declarator declarator: (identifier) @_macro
  parameters: (parameter_list . (parameter_declaration type: (type_identifier) @owner !declarator)
    . (parameter_declaration type: (type_identifier) @name !declarator) .))
  (#set! level "module")
  (#match? @_macro "^[A-Z][A-Z0-9_]{2,}$")) @function
(function_definition !type declarator: (function_declarator declarator: (identifier) @_macro
  parameters: (parameter_list . (parameter_declaration type: (type_identifier) @name !declarator)
    . (parameter_declaration) . (parameter_declaration)))
  (#set! level "module")
  (#match? @_macro "^[A-Z][A-Z0-9_]{2,}$")) @function
; `BOOST_FIXTURE_TEST_CASE(name, Fixture) {`, `TEST_CASE_METHOD(Fixture, "name") {`
(function_definition !type declarator: (function_declarator declarator: (identifier) @_macro
  parameters: (parameter_list . (parameter_declaration type: (type_identifier) @name !declarator)
    . (parameter_declaration type: (type_identifier) @owner !declarator)))
  (#set! level "module")
  (#match? @_macro "^[A-Z0-9_]*FIXTURE[A-Z0-9_]*$")) @function
((expression_statement (call_expression function: (identifier) @call
    arguments: (argument_list . (identifier) @owner . (string_literal) @label))) @outer
  . (compound_statement) @function @inner
  (#match? @call "^[A-Z0-9_]*(METHOD|FIXTURE)"))
