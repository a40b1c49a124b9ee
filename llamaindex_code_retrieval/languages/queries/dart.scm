(class_definition name: (_) @name) @class
(class_definition (mixin_application_class . (identifier) @name)) @class
(mixin_declaration (mixin) . (identifier) @name) @class
(extension_declaration name: (_) @name) @class
(extension_declaration !name class: (type_identifier) @owner) @class
(extension_declaration !name (type_identifier) . (type_identifier) @owner) @class
(extension_type_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(type_alias . (type_identifier) @name . (type_parameters)? . "=") @class
(type_alias (type_identifier) @name . (type_parameters)? . (formal_parameter_list)) @class

; a body stands beside its signature
(program [
  (function_signature name: (_) @name)
  (getter_signature name: (_) @name)
  (setter_signature name: (_) @name)
] @function . (comment)* . (function_body) @end)
([
  (method_signature [
    (function_signature name: (_) @name)
    (getter_signature name: (_) @name)
    (setter_signature name: (_) @name)
    (factory_constructor_signature "factory" . (identifier) @name . (formal_parameter_list))
    (factory_constructor_signature "factory" . (identifier) @qualified . (identifier) @name)
    (constructor_signature . name: (identifier) @name . (formal_parameter_list))
    (constructor_signature . name: (identifier) @qualified . name: (identifier) @name)
  ])
] @method . (comment)* . (function_body) @end)
((method_signature (operator_signature "operator" . _ @name)) @method . (comment)* . (function_body) @end (#set! prefix "operator "))

; constructors without a body
(declaration [
  (constructor_signature . name: (identifier) @name . (formal_parameter_list))
  (constructor_signature . name: (identifier) @qualified . name: (identifier) @name)
  (constant_constructor_signature (const_builtin) . (identifier) @name . (formal_parameter_list))
  (constant_constructor_signature (const_builtin) . (identifier) @qualified . (identifier) @name)
  (redirecting_factory_constructor_signature "factory" . (identifier) @name . (formal_parameter_list))
  (redirecting_factory_constructor_signature "factory" . (identifier) @qualified . (identifier) @name)
]) @method
(declaration [
  (function_signature name: (_) @name)
  (getter_signature name: (_) @name)
  (setter_signature name: (_) @name)
]) @prototype
(declaration (operator_signature "operator" . _ @name (#set! prefix "operator "))) @prototype
(program [
  (function_signature name: (_) @name)
  (getter_signature name: (_) @name)
  (setter_signature name: (_) @name)
] @prototype . ";")

; functions in functions, and functions that are values of names
(local_function_declaration (lambda_expression (function_signature name: (_) @name))) @function
(initialized_variable_definition name: (_) @name value: (function_expression)) @function
(initialized_identifier . (identifier) @name . (function_expression)) @method
(static_final_declaration . (identifier) @name . (function_expression)) @function
(_ [
  (static_final_declaration . (identifier) @name [
    (selector (argument_part (arguments (argument (function_expression)))))
    (relational_expression (parenthesized_expression (function_expression)))  ; `Provider<Cart>((ref) => …)`
  ]) @function
  (initialized_identifier . (identifier) @name (selector (argument_part (arguments (argument (function_expression)))))) @function
] (#set! level "module"))

; tests
((expression_statement . (identifier) @call . (selector (argument_part (arguments . (argument (string_literal) @label))))) @module
  (#eq? @call "group"))
((expression_statement . (identifier) @call . (selector (argument_part (arguments
    . (argument (string_literal) @label) [(argument (function_expression)) (named_argument (function_expression))])))) @function
  (#match? @call "^(test|[a-z]\\w*Tests?|testWidgets|testGoldens|integrationTest)$"))
((expression_statement . (identifier) @name . (selector (argument_part (arguments . (argument (function_expression)))))) @function
  (#any-of? @name "setUp" "setUpAll" "tearDown" "tearDownAll"))

(documentation_comment) @comment
(comment) @comment
(annotation) @attribute
