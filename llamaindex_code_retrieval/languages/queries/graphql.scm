; a definition starts below its description
(object_type_definition (name) @name @class) @end
(interface_type_definition (name) @name @class) @end
(input_object_type_definition (name) @name @class) @end
(enum_type_definition (name) @name @class) @end
(union_type_definition (name) @name @class) @end
(scalar_type_definition (name) @name @class) @end
(directive_definition "directive" @class (name) @name (#set! prefix "@")) @end
(schema_definition "schema" @name @class) @end
(object_type_extension (name) @name @class) @end
(interface_type_extension (name) @name @class) @end
(input_object_type_extension (name) @name @class) @end
(enum_type_extension (name) @name @class) @end
(union_type_extension (name) @name @class) @end
(scalar_type_extension (name) @name @class) @end

; the fields of the root types are operations
((object_type_definition (name) @_type (fields_definition (field_definition (name) @name @prototype) @end))
  (#match? @_type "^(Query|Mutation|Subscription)$"))
((object_type_extension (name) @_type (fields_definition (field_definition (name) @name @prototype) @end))
  (#match? @_type "^(Query|Mutation|Subscription)$"))

(operation_definition (name) @name) @function
(fragment_definition (fragment_name (name) @name)) @function
(description) @comment
(comment) @comment
