import sys
if sys.version_info<(3,9):
 sys.stderr.write('Python 3.9 or newer is needed, and this is Python '+sys.version.split()[0]+'\n')
 sys.exit(1)
p=sys.path[:]
if p[:1]==['']:del sys.path[0]
o=OPTIONS
import os
if o['safe_path']:
 os.environ.pop('PYTHONSAFEPATH',None)
 if p[:1]!=['']:p.insert(0,'')
l=os.path.dirname(os.__file__)
sys.path[:]=[x for x in p if x==l or x.endswith('/lib-dynload') or x.endswith('.zip') and os.path.dirname(x)==os.path.dirname(l)]
import _socket
s=_socket.socket(fileno=os.dup(0))
f=s.recvmsg(1,_socket.CMSG_SPACE(12))[1][0][2]
f=[int.from_bytes(f[i:i+4],sys.byteorder) for i in(0,4,8)]
d=b''
while len(d)<SIZE+COMPILED:
 b=os.read(f[0],SIZE+COMPILED-len(d))
 if not b:os._exit(1)
 d+=b
import marshal
v=sys.modules['_frozen_importlib_external'].MAGIC_NUMBER+sys.version.encode()+b'\0'
c,d,m=d[SIZE:],d[:SIZE].split(b'\0'),None
if c.startswith(v):
 c=marshal.loads(c[len(v):])
else:
 c=compile(d[0],'<python>','exec')
 m=v+marshal.dumps(c)
exec(c,{'__name__':'sessile_driver','passage':s,'pipes':f,'rooms':d[1:],'path':p,'options':o,'made':m})
