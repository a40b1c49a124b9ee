(type_definition (type_binding name: (type_constructor) @name) @class)
(exception_definition (constructor_declaration (constructor_name) @name)) @class
; those in an expression are local
(compilation_unit (module_definition (module_binding (module_name) @name) @module))
(structure (module_definition (module_binding (module_name) @name) @module))
(signature (module_definition (module_binding (module_name) @name) @module))
(module_type_definition (module_type_name) @name) @module
(class_definition (class_binding (class_name) @name) @class)
(class_type_definition (class_type_binding (class_type_name) @name) @class)
(method_definition (method_name) @name) @method
(method_specification (method_name) @name) @prototype
(value_specification [(value_name) @name (parenthesized_operator (_) @name)]) @prototype
(external [(value_name) @name (parenthesized_operator (_) @name)]) @function

; headings, as in `(** {1 Points} *)`, describe what follows up to the next one
((comment) @comment (#not-match? @comment "^\\(\\*\\*(/|\\s*\\{[0-9])"))
((comment) @trailing (#match? @trailing "^\\(\\*\\*[^*/]") (#not-match? @trailing "^\\(\\*\\*\\s*\\{[0-9]"))
