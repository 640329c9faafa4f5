-- A database of version 4, from before the full-text index, with a call that a crash left open.
PRAGMA application_id = 1095323720;
PRAGMA user_version = 4;
PRAGMA foreign_keys = OFF;
BEGIN TRANSACTION;
CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        target TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT
    ;
INSERT INTO "audit" VALUES(1,500.0,'admin','add','pbx','');
CREATE TABLE call (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        line_id TEXT NOT NULL,
        caller TEXT NOT NULL,
        caller_name TEXT NOT NULL,
        called TEXT NOT NULL,
        direction TEXT NOT NULL,
        started REAL NOT NULL,
        answered REAL,
        ended REAL,
        end_code INTEGER NOT NULL DEFAULT 0,
        end_reason TEXT NOT NULL DEFAULT '',
        recording TEXT NOT NULL DEFAULT '') STRICT
    ;
INSERT INTO "call" VALUES(3,'pbx','sip:ann@192.0.2.9','Ann','sip:100@192.0.2.1','in',1000.0,1000.5,1060.0,200,'the caller hung up','recordings/3.wav');
INSERT INTO "call" VALUES(4,'pbx','sip:bob@192.0.2.9','Bob','sip:100@192.0.2.1','out',2000.0,NULL,2010.0,486,'busy','');
INSERT INTO "call" VALUES(7,'web','web','','','web',3000.0,3000.1,NULL,0,'','');
CREATE TABLE call_media (
        call_id INTEGER PRIMARY KEY REFERENCES call (id) ON DELETE CASCADE,
        media TEXT NOT NULL
    ) STRICT
    ;
INSERT INTO "call_media" VALUES(3,'{"lost": 2, "jitter_ms": 1.5}');
CREATE TABLE persona (
        name TEXT PRIMARY KEY,
        document TEXT NOT NULL,  -- JSON; a field that is missing has its default
        version INTEGER NOT NULL DEFAULT 1
    ) STRICT
    ;
INSERT INTO "persona" VALUES('default','{"greeting": "Welcome.", "patience": 0.9}',3);
INSERT INTO "persona" VALUES('night','{"bot_name": "Luna"}',1);
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO "setting" VALUES('retention','{"calls": 30, "transcripts": 0, "recordings": 7}');
CREATE TABLE sip_client (
        client_id TEXT PRIMARY KEY,
        username TEXT NOT NULL,
        server_ip TEXT NOT NULL,
        server_port INTEGER NOT NULL,
        display_name TEXT NOT NULL,
        auto_answer INTEGER NOT NULL,
        greeting TEXT NOT NULL,
        transport TEXT NOT NULL,
        auth_username TEXT NOT NULL,
        proxy TEXT NOT NULL,
        persona TEXT REFERENCES persona (name) ON DELETE SET NULL,
        enabled INTEGER NOT NULL,
        started INTEGER NOT NULL DEFAULT 0,
        version INTEGER NOT NULL DEFAULT 1,
        password BLOB NOT NULL  -- encrypted, see secrets.py
    , srtp TEXT NOT NULL DEFAULT 'off') STRICT
    
    ;
INSERT INTO "sip_client" VALUES('pbx','100','192.0.2.1',5070,'Front desk',1,'Hi','tcp','u100','sip:proxy','night',1,1,4,X'00','off');
INSERT INTO "sip_client" VALUES('spare','101','192.0.2.2',5060,'',0,'','udp','','',NULL,0,0,1,X'00','off');
CREATE TABLE turn (
        call_id INTEGER NOT NULL REFERENCES call (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        at REAL NOT NULL,
        caller_text TEXT NOT NULL,
        assistant_text TEXT NOT NULL,
        interrupted INTEGER NOT NULL,
        parts TEXT NOT NULL,
        total REAL NOT NULL,
        PRIMARY KEY (call_id, number)
    ) STRICT, WITHOUT ROWID
    ;
INSERT INTO "turn" VALUES(3,1,1010.0,'Do you sell marmalade?','Yes, we do.',1,'{"patience": 0.7, "playout": 0.1}',0.8);
CREATE TABLE words (
        call_id INTEGER NOT NULL REFERENCES call (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        role TEXT NOT NULL,
        text TEXT NOT NULL,
        at REAL NOT NULL,
        interrupted INTEGER NOT NULL, spoken TEXT NOT NULL DEFAULT '[]',
        PRIMARY KEY (call_id, number)
    ) STRICT, WITHOUT ROWID
    ;
INSERT INTO "words" VALUES(3,1,'user','Do you sell marmalade?',1010.0,0,'[]');
INSERT INTO "words" VALUES(3,2,'assistant','Yes, we do.',1012.0,1,'[]');
INSERT INTO "words" VALUES(7,1,'user','Hello?',3005.0,0,'[["Hello?",-0.62,-0.18,0.97]]');
CREATE INDEX sip_client_persona ON sip_client (persona);
CREATE VIEW call_text (id, who, words) AS  -- what full-text search looks through, see search.py
    SELECT id, caller || ' ' || caller_name, coalesce(
        (SELECT group_concat(text, ' ') FROM (SELECT text FROM words WHERE call_id = call.id ORDER BY number)), '')
    FROM call WHERE ended IS NOT NULL;
CREATE INDEX call_line ON call (line_id);
CREATE INDEX call_open ON call (id) WHERE ended IS NULL;
CREATE INDEX call_started ON call (started, answered, ended);
CREATE INDEX call_recording ON call (started) WHERE recording <> '';
CREATE INDEX turn_time ON turn (at, total, interrupted);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('call',7);
COMMIT;
