(class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(record_declaration name: (_) @name) @class
(annotation_type_declaration name: (_) @name) @class
(constructor_declaration name: (_) @name) @method
(compact_constructor_declaration name: (_) @name) @method
(method_declaration name: (_) @name body: (_)) @method [(line_comment) (block_comment)] @comment
