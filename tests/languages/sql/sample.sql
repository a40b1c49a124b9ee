-- Tables of the shop.
-- A cart with its owner.
CREATE TABLE IF NOT EXISTS shop.cart (
    id serial PRIMARY KEY,
    note text DEFAULT 'none; it''s empty',  -- a comment; with a semicolon
    total numeric(10, 2) CHECK (total >= 0)
);
create unlogged table "order line" (id int);
CREATE OR REPLACE VIEW totals AS SELECT id, total FROM shop.cart;
CREATE MATERIALIZED VIEW daily AS
SELECT 1
WITH NO DATA;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN price AS numeric CHECK (VALUE > 0);
CREATE INDEX cart_total ON shop.cart (total);

/*
 * Adds two prices.
 */
CREATE OR REPLACE FUNCTION @extschema@.add(a int, b int DEFAULT 1)
RETURNS int AS $$
DECLARE
    x int := 1;
BEGIN
    IF a IS NULL THEN
        RAISE EXCEPTION 'it is %', a;
    END IF;
    RETURN a + b;
END;
$$ LANGUAGE plpgsql;

CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
$body$
BEGIN
    EXECUTE 'SELECT set_config(''path'',''' || NEW.path || ''',''false'')';
    RETURN NEW;
END
$body$;
CREATE FUNCTION native(text) RETURNS text AS 'lib', 'native' LANGUAGE C;
CREATE AGGREGATE sums (int) (sfunc = add, stype = int);
CREATE TRIGGER touch_cart BEFORE UPDATE ON shop.cart
    FOR EACH ROW WHEN (OLD.total IS DISTINCT FROM NEW.total) EXECUTE FUNCTION touch();

ALTER TABLE shop.cart ADD COLUMN x int;
INSERT INTO shop.cart VALUES (1, 'CREATE TABLE not_a_table (id int);', 2);

-- MySQL
DELIMITER //
CREATE DEFINER=`root`@`localhost` PROCEDURE pay(IN amount INT)
BEGIN
    IF amount > 0 THEN
        UPDATE cart SET total = total - amount;
    END IF;
END //
DELIMITER ;
CREATE TRIGGER stamp BEFORE INSERT ON cart FOR EACH ROW SET NEW.created = NOW();
CREATE TABLE `user` (`id` int(11) NOT NULL) ENGINE=InnoDB COMMENT='it\'s; MySQL';

-- SQL Server
GO
CREATE PROCEDURE [dbo].[GetCart] @id INT
AS
SELECT * FROM [dbo].[cart] WHERE id = @id;
SELECT 2;
GO
CREATE PROC dbo.[Put Cart] AS
BEGIN
    BEGIN TRANSACTION;
    COMMIT;
END
GO

-- Oracle
CREATE OR REPLACE PACKAGE BODY billing AS
    FUNCTION due(id NUMBER) RETURN NUMBER;

    -- Sends a bill.
    PROCEDURE send(id NUMBER) IS
        x NUMBER;
    BEGIN
        NULL;
    END send;
END billing;
/
CREATE TABLE last_one (id int)
