(** {1 Points} *)
type t
(** A point. *)

(** {2 Making} *)

val make : int -> int -> t
(** [make x y] is a point. *)

val x : t -> int (** Its x. *)

val y : t -> int
(** Its y,
    on two lines. *)
val zero : t
(** At the origin. *)

(**/**)

(** Adds. *)
val ( + ) : t -> t -> t
(** Subtracts. *)
val ( - ) : t -> t -> t

exception Far of t
(** Raised by {!make}. *)

module Map : sig
  type 'a map
  val find : t -> 'a map -> 'a
  (** Finds. *)
end

external now : unit -> int = "caml_now"

include Show.S with type t := t
  and type output = Buffer.t
