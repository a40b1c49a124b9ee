(class_definition name: (_) @name) @class
(trait_definition name: (_) @name) @class
(object_definition name: (_) @name) @class
(package_object name: (_) @name) @class
(enum_definition name: (_) @name) @class
(extension_definition parameters: (parameters . (parameter type: (_) @owner))) @class
(given_definition "given" . return_type: (_) @owner) @class
(given_definition name: (_) @name) @class
(val_definition pattern: (identifier) @name value: (instance_expression (template_body))) @class
(type_definition name: (_) @name) @alias

(function_definition name: (_) @name) @function
(function_declaration name: (_) @name) @prototype
(val_definition pattern: (identifier) @name value: (lambda_expression)) @function

; tests: `test("adds") { … }`, `"A cart" should "add" in { … }`, `"A cart" should { … }`
(call_expression
  function: (call_expression
    function: [(identifier) @call (field_expression field: (identifier) @call)]
    arguments: (arguments . [(string) (interpolated_string_expression)] @label))
  arguments: [(block) (case_block) (colon_argument)]) @function
(infix_expression
  left: (infix_expression left: [(string) (identifier)] @name operator: (_) @name right: (string) @name)
  operator: (identifier) @_in
  right: [(block) (call_expression)]
  (#set! join " ")
  (#any-of? @_in "in" "ignore" "is")) @function
(infix_expression left: (string) @label operator: (_) @_word right: (block)
  (#any-of? @_word "in" "should" "must" "can" "when" "which" "ignore" "-" ">>")) @function

[(comment) (block_comment)] @comment
