(trait_item name: (_) @name) @class
(struct_item name: (_) @name) @class
(enum_item name: (_) @name) @class
(union_item name: (_) @name) @class

(function_item name: (_) @name) @function
(impl_item type: (_) @owner) @class
(mod_item name: (_) @name body: (_)) @scope
[(line_comment) (block_comment)] @comment
(attribute_item) @attribute
