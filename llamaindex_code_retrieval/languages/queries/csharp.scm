(class_declaration name: (_) @name) @class
(struct_declaration name: (_) @name) @class
(record_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(delegate_declaration name: (_) @name) @alias

(constructor_declaration name: (_) @name) @method
(destructor_declaration name: (_) @name (#set! prefix "~")) @method
(local_function_statement name: (_) @name) @function
(method_declaration name: (_) @name body: (_)) @method
(method_declaration name: (_) @name !body) @prototype
(operator_declaration operator: _ @name (#set! prefix "operator ")) @method
(conversion_operator_declaration type: (_) @name (#set! prefix "operator ")) @method

; members with code; `{ get; set; }` is none
(property_declaration name: (_) @name accessors: (accessor_list (accessor_declaration body: (_)))) @method
(property_declaration name: (_) @name value: (arrow_expression_clause)) @method
(indexer_declaration "this" @name accessors: (accessor_list (accessor_declaration body: (_)))
  (#set! name "this[]")) @method
(indexer_declaration "this" @name value: (arrow_expression_clause)
  (#set! name "this[]")) @method
(event_declaration name: (_) @name accessors: (accessor_list (accessor_declaration body: (_)))) @method

; functions in variables and calls: `app.MapGet("/orders", () => { … })`
(field_declaration (variable_declaration (variable_declarator name: (_) @name
  [(lambda_expression body: (block)) (anonymous_method_expression)]))) @method
(local_declaration_statement (variable_declaration (variable_declarator name: (_) @name
  [(lambda_expression body: (block)) (anonymous_method_expression)]))) @function
(invocation_expression function: [(identifier) @call (member_access_expression name: (_) @call)]
  arguments: (argument_list . (argument (string_literal) @label)
    (argument [(lambda_expression body: (block)) (anonymous_method_expression)]))) @function

(comment) @comment
